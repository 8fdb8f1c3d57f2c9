# cc.sh SOURCE OBJECT: compile, or fail as a compiler does
mkdir -p "$(dirname "$2")"
case "$FAKE_KERNEL" in
disk) echo "fatal error: error writing to /tmp/x.s: No space left on device"; exit 1 ;;
killed) echo "gcc: fatal error: Killed signal terminated program cc1"; exit 1 ;;
hang) echo $$ > "$FAKE_PIDS"; sleep 1000 ;;
esac
if line=$(grep -n 'BROKEN' "$1"); then
	echo "$1:${line%%:*}:9: error: 'BROKEN' undeclared (first use in this function)"
	exit 1
fi
cp "$1" "$2"
echo "deps := $1 ../include/linux/netdevice.h \\" > "$(dirname "$2")/.$(basename "$2").cmd"
