package verify

// generalRegisters are those of arm64 that have numbers.
const generalRegisters = 31

// registers checks the form of a thread's registers. Of arm64's CRIU copies as many as the machine has, however many
// the image has (arch/aarch64/crtools.c, restore_gpregs): fewer would show the thread CRIU's own memory. The other ones
// CRIU counts itself (restore_fpu; arch/x86/crtools.c, valid_xsave_frame). What is in them is the thread's own business.
func (v *verifier) registers(t thread) error {
	if r := t.core.GetTiAarch64(); r != nil && len(r.GetGpregs().GetRegs()) != generalRegisters {
		return t.malformed("it has %d general registers, not %d", len(r.GetGpregs().GetRegs()), generalRegisters)
	}
	return nil
}
