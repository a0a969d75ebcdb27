/* A host's own wall clock: preloaded into each of its programs, it adds an offset to what they read of the time.
 *
 * The offset is mapped from a file that clock.py writes: a clock that is set is another one at once, for what runs
 * already as well, and nothing is asked of the kernel that sshd's sandbox wouldn't allow. What the kernel wrote down by
 * its own clock, the times of files, is shifted likewise; monotonic clocks aren't.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *mapped; /* in seconds */

__attribute__((constructor)) static void map_offset(void) {
    int file = open("/run/clock", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED)
        mapped = found;
    close(file);
}

static int64_t offset(void) { return mapped ? *mapped : 0; }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int failed = real(now, zone);
    if (!failed && now)
        now->tv_sec += offset();
    return failed;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}

static int shifted(int failed, struct stat *of) {
    if (!failed) {
        of->st_atim.tv_sec += offset();
        of->st_mtim.tv_sec += offset();
        of->st_ctim.tv_sec += offset();
    }
    return failed;
}

int stat(const char *restrict path, struct stat *restrict of) {
    REAL(stat);
    return shifted(real(path, of), of);
}

int lstat(const char *restrict path, struct stat *restrict of) {
    REAL(lstat);
    return shifted(real(path, of), of);
}

int fstat(int file, struct stat *of) {
    REAL(fstat);
    return shifted(real(file, of), of);
}

int fstatat(int directory, const char *restrict path, struct stat *restrict of, int flags) {
    REAL(fstatat);
    return shifted(real(directory, path, of, flags), of);
}

/* The same on machines of 64 bits. */
int stat64(const char *restrict path, struct stat64 *restrict of) { return stat(path, (struct stat *)of); }
int lstat64(const char *restrict path, struct stat64 *restrict of) { return lstat(path, (struct stat *)of); }
int fstat64(int file, struct stat64 *of) { return fstat(file, (struct stat *)of); }
int fstatat64(int directory, const char *restrict path, struct stat64 *restrict of, int flags) {
    return fstatat(directory, path, (struct stat *)of, flags);
}

int statx(int directory, const char *restrict path, int flags, unsigned mask, struct statx *restrict of) {
    REAL(statx);
    int failed = real(directory, path, flags, mask, of);
    if (!failed) {
        of->stx_atime.tv_sec += offset();
        of->stx_mtime.tv_sec += offset();
        of->stx_ctime.tv_sec += offset();
        of->stx_btime.tv_sec += offset();
    }
    return failed;
}

static const struct timespec *unshifted(const struct timespec given[2], struct timespec kept[2]) {
    if (!given)
        return given;
    for (int each = 0; each < 2; each++) {
        kept[each] = given[each];
        if (given[each].tv_nsec != UTIME_NOW && given[each].tv_nsec != UTIME_OMIT)
            kept[each].tv_sec -= offset();
    }
    return kept;
}

int utimensat(int directory, const char *path, const struct timespec given[2], int flags) {
    REAL(utimensat);
    struct timespec kept[2];
    return real(directory, path, unshifted(given, kept), flags);
}

int futimens(int file, const struct timespec given[2]) {
    REAL(futimens);
    struct timespec kept[2];
    return real(file, unshifted(given, kept));
}
