# Makes of a process in new namespaces a host, up to its first program, /sbin/init of its own root.
# Run by host.py as process 1 of the host; its orders come on stdin, whose end is the end of its power.
set -eu
read -r outer _ </proc/self/stat # as this machine knows it: /proc is still this machine's
hostname "$BED_NAME"
ip link set lo up
ip addr add 169.254.169.254/32 dev lo

cd "$BED_DIR"
mkdir -p disk root
mount -o loop disk.img disk
mount -t overlay overlay -o "lowerdir=disk/layer:/,upperdir=disk/upper,workdir=disk/work" root
cd root
mount -t proc proc proc
# The kernel's settings are those of this machine: to be read.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind "$BED_DIR/boot_id" proc/sys/kernel/random/boot_id
mount -t sysfs -o ro sysfs sys

# Devices of its own: with this machine's, a host could write to this machine's disk.
mount -t tmpfs -o mode=755,size=64k tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
# It would reboot this machine.
if [ -e proc/sysrq-trigger ]; then mount --bind dev/null proc/sysrq-trigger; fi

mount -t tmpfs -o mode=755,size=16m tmpfs run
mount -t tmpfs -o mode=1777,size=64m tmpfs tmp
mkdir -p run/sshd
touch run/clock
mount --bind "$BED_DIR/clock" run/clock
mount -o remount,bind,ro run/clock
while IFS= read -r shared; do
    [ -n "$shared" ] || continue
    mkdir -p ".$shared"
    mount --bind "$shared" ".$shared"
    mount -o remount,bind,ro ".$shared"
done <<END
$BED_SHARED
END

pivot_root . mnt
cd /
umount -l /mnt
echo "ready $outer"

read -r order
[ "$order" = on ]
ip link set eth0 up
ip addr add "$BED_ADDRESS/24" dev eth0
ip route add default via "$BED_GATEWAY"
ip neigh replace "$BED_GATEWAY" lladdr "$BED_GATEWAY_MAC" dev eth0 nud permanent
sleep "$BED_BOOT_SECONDS"
# Memory that runs out ends what a user started and not the host. Where that isn't allowed, the kernel picks the largest.
echo -1000 2>/dev/null >/proc/self/oom_score_adj || :
# What would reach beyond the host: this machine's clock, its kernel, its disks.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-mknod /bin/bash /sbin/init >&2
