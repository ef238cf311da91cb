package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/magic"
	"google.golang.org/protobuf/proto"
)

// writeImage writes an image of one entry.
func writeImage(file, kind string, entry proto.Message) error {
	payload, err := proto.Marshal(entry)
	if err != nil {
		return fmt.Errorf("CRIU image %s: %w", filepath.Base(file), err)
	}
	out := binary.LittleEndian.AppendUint32(magicOf(kind), uint32(len(payload)))
	if err := os.WriteFile(file, append(out, payload...), 0o600); err != nil {
		return fmt.Errorf("CRIU image: %w", err)
	}
	return nil
}

// magicNumbers are those of all kinds.
var magicNumbers = sync.OnceValue(func() map[string]uint64 { return magic.LoadMagic().ByName })

// magicOf returns how an image of a kind begins. All but the inventory have a common
// number before their own (criu/image.c, open_image_at and write_img_inventory).
func magicOf(kind string) []byte {
	var out []byte
	numbers := magicNumbers()
	if kind != "INVENTORY" {
		out = binary.LittleEndian.AppendUint32(out, uint32(numbers["IMG_COMMON"]))
	}
	return binary.LittleEndian.AppendUint32(out, uint32(numbers[kind]))
}
