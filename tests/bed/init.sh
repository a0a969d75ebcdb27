# Process 1 of a host: the SSH server, the end of orphans, and an orderly end when it is asked for.
# bash, since it waits for children that others left to it while it reads.
/usr/sbin/sshd -D -e 2>>/var/log/sshd.log &
while read -r order; do
    [ "$order" = off ] || continue
    kill -TERM -1
    for _ in {1..50}; do
        set -- /proc/[0-9]*
        [ $# -le 1 ] && break
        sleep 0.1
    done
    sync
    exit 0
done
