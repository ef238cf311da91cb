package verify

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"golang.org/x/sys/unix"
)

// maxTimer is the highest number of a timer: CRIU counts so far in some seconds.
const maxTimer = 1 << 24

// sizeOfSiginfo is that of siginfo_t (SI_MAX_SIZE).
const sizeOfSiginfo = 128

// timers refuses those that wake up the node: CRIU makes them when it still is root
// (pie/restorer.c, create_posix_timers).
func (v *verifier) timers(t thread, g granted) error {
	timers := t.core.GetTc().GetTimers()
	if timers == nil {
		return t.malformed("it has no timers")
	}
	for _, timer := range timers.GetPosix() {
		// Before Linux 6.16 CRIU makes and deletes timers until one has this number (pie/restorer.c, create_posix_timers).
		if id := timer.GetItId(); id > maxTimer {
			v.refuseLimit(t, "timer", fmt.Sprint(id), fmt.Sprintf("numbers up to %d", maxTimer), "take the checkpoint of a container that has made fewer timers since it was started")
		}
		switch timer.GetClockId() {
		case unix.CLOCK_REALTIME_ALARM, unix.CLOCK_BOOTTIME_ALARM:
			if !g.permitted.has(capWakeAlarm) {
				v.refuseLimit(t, fmt.Sprintf("clock of timer %d", timer.GetItId()), fmt.Sprint(timer.GetClockId()),
					"one that does not wake up the node", "add the capability WAKE_ALARM as in the pod that was checkpointed")
			}
		}
	}
	return nil
}

// signals checks the form of the queued signals: CRIU copies 128 bytes, however many the image has
// (cr-restore.c, signal_to_mem), so that a shorter one would show the process CRIU's own memory.
func (v *verifier) signals(t thread) error {
	queues := []*siginfo.SignalQueueEntry{t.core.GetThreadCore().GetSignalsP()}
	if t.tid == t.pid {
		queues = append(queues, t.core.GetTc().GetSignalsS())
	}
	for _, queue := range queues {
		if queue == nil {
			return t.malformed("it has no queue of signals")
		}
		for _, s := range queue.GetSignals() {
			if n := len(s.GetSiginfo()); n != sizeOfSiginfo {
				return t.malformed("a signal has %d bytes, not %d", n, sizeOfSiginfo)
			}
		}
	}
	return nil
}
