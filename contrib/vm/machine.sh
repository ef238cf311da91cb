# shellcheck shell=bash disable=SC2154
# Sourced by contrib/vm/test.sh: the guest as a running machine. Uses say, die, work, image of its caller.

# One processor is what an emulated guest uses well: with QEMU 7.2's thread=multi a jump label that one processor
# changes while another runs it has ended in a crash.
guest_processors=${VM_PROCESSORS:-1}
guest_memory=${VM_MEMORY:-4G}
boot_timeout=${VM_BOOT_TIMEOUT:-900} # s; 40 s on an idle machine that emulates, ten times as much on a busy one

qemu_pid='' port=''

# accelerator prints QEMU's arguments. A kernel with kvm_pvm has /dev/kvm on a processor without VMX or SVM, and runs
# only guests made for it there. QEMU 7.2 emulates cmpxchg16b with flags that are wrong when it is interrupted, which has
# ended in a double fault in Linux's allocator: without cx16 the kernel does without it.
accelerator() {
	if [ -w /dev/kvm ] && [ ! -d /sys/module/kvm_pvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
		echo "-accel kvm -cpu host"
	else
		echo "-accel tcg,thread=single -cpu max,-cx16"
	fi
}

# free_port prints a port of 127.0.0.1 that nobody listens on.
free_port() {
	local try
	for _ in {1..100}; do
		try=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$try") 2>/dev/null || { echo "$try" && return; }
	done
	die "no free port between 20000 and 40000"
}

# boot starts the guest on a fresh copy of the disk, with the payload as its second one, and waits until it can be
# logged into. The guest reaches nothing but the host's port for that (restrict=on).
boot() {
	local payload=$1 began=$SECONDS
	port=$(free_port)
	qemu-img create -q -f qcow2 -b "$image/root.img" -F raw "$work/disk.qcow2"
	# mitigations=off nopti: where the processor is emulated they double every time.
	# shellcheck disable=SC2046 # arguments
	qemu-system-x86_64 -machine q35 $(accelerator) -smp "$guest_processors" -m "$guest_memory" -display none \
		-kernel "$image/vmlinuz" -initrd "$image/initrd" \
		-append "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off nopti audit=0 systemd.show_status=0 quiet" \
		-drive "file=$work/disk.qcow2,if=virtio,cache=unsafe,discard=unmap" \
		-drive "file=$payload,if=virtio,format=raw,readonly=on" \
		-netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=n \
		-device virtio-rng-pci -serial "file:$work/console.log" -monitor none -no-reboot </dev/null >"$work/qemu.log" 2>&1 &
	qemu_pid=$!
	until guest -o ConnectTimeout=5 true 2>/dev/null; do
		kill -0 "$qemu_pid" 2>/dev/null || die "QEMU ended: $(tail -n 3 "$work/qemu.log" "$work/console.log")"
		((SECONDS - began < boot_timeout)) || die "the guest is not up after $boot_timeout s: $(tail -n 3 "$work/console.log")"
		sleep 1
	done
	say "the guest is up after $((SECONDS - began)) s ($(accelerator))"
}

# guest [-o OPTION] COMMAND...: in the guest, by its shell.
guest() {
	ssh -q -i "$image/key" -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
		-o BatchMode=yes -o ServerAliveInterval=30 -o ServerAliveCountMax=20 root@127.0.0.1 "$@"
}

stop_guest() {
	[ -n "$qemu_pid" ] || return 0
	kill "$qemu_pid" 2>/dev/null || true # its disk is thrown away
	wait "$qemu_pid" 2>/dev/null || true
	qemu_pid=''
}
