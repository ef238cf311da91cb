package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/magic"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// maxImage bounds an image that is read into memory, in bytes. Those that are
// read have some dozen bytes a process.
const maxImage = 16 << 20

// readImage calls f for each entry of an image (criu.org/Images): a magic number, and
// then entries, each after its length. crit's own decoder trusts the lengths.
//
// Errors are of class errdefs.ErrInvalidArgument for an image that is not
// whole, too large or of another kind than its magic's name.
func readImage(dir, name, kind string, f func(entry []byte) error) error {
	invalid := func(why string) error {
		return fmt.Errorf("CRIU image %s: %s: %w", name, why, errdefs.ErrInvalidArgument)
	}
	file, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("CRIU image %s: %w: %w", name, os.ErrNotExist, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("CRIU image %s: %w", name, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxImage+1))
	if err != nil {
		return fmt.Errorf("CRIU image %s: %w", name, err)
	}
	if len(data) > maxImage {
		return invalid(fmt.Sprintf("it has more than %d bytes", maxImage))
	}
	data, ok := bytes.CutPrefix(data, magicOf(kind))
	if !ok {
		return invalid("its magic number is not that of " + kind)
	}
	for len(data) > 0 {
		if len(data) < 4 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-4) {
			return invalid("it ends within an entry")
		}
		end := 4 + int(binary.LittleEndian.Uint32(data))
		if err := f(data[4:end]); err != nil {
			return invalid(clip(err.Error(), 200))
		}
		data = data[end:]
	}
	return nil
}

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

// magicOf returns how an image of a kind begins. All but the inventory have a common
// number before their own (criu/image.c, open_image_at and write_img_inventory).
func magicOf(kind string) []byte {
	var out []byte
	numbers := magic.LoadMagic().ByName
	if kind != "INVENTORY" {
		out = binary.LittleEndian.AppendUint32(out, uint32(numbers["IMG_COMMON"]))
	}
	return binary.LittleEndian.AppendUint32(out, uint32(numbers[kind]))
}
