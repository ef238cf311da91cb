package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"os"
	"strconv"
)

var table = crc64.MakeTable(crc64.ECMA)

// heap fills MiB of memory with noise and checks the sum of a part of it at every
// tick, all of it again and again.
func heap(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("heap takes a size in MiB")
	}
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	const chunk = 1 << 20
	chunks := make([][]byte, size)
	sums := make([]uint64, size)
	random := rand.NewChaCha8([32]byte{1})
	for i := range chunks {
		chunks[i] = make([]byte, chunk)
		for o := 0; o < chunk; o += 8 {
			binary.LittleEndian.PutUint64(chunks[i][o:], random.Uint64())
		}
		sums[i] = crc64.Checksum(chunks[i], table)
	}
	total := crc64.New(table)
	for _, s := range sums {
		_ = binary.Write(total, binary.LittleEndian, s)
	}
	const perTick = 64
	return every(func(n int) (string, error) {
		for k := range min(perTick, size) {
			i := (n*perTick + k) % size
			if crc64.Checksum(chunks[i], table) != sums[i] {
				return "", fmt.Errorf("heap: chunk %d has changed", i)
			}
		}
		return fmt.Sprintf("heap %d MiB sum %x", size, total.Sum64()), nil
	})
}

// deleted writes to a file that has no name any more, and reads it back.
func deleted([]string) error {
	f, err := os.CreateTemp("/tmp", "deleted")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	return every(func(n int) (string, error) {
		if _, err := fmt.Fprintf(f, "line %08d\n", n); err != nil {
			return "", err
		}
		content := make([]byte, 14*n+1)
		got, err := f.ReadAt(content, 0)
		if got != 14*n {
			return "", fmt.Errorf("deleted: %d bytes of %d: %w", got, 14*n, err)
		}
		var last int
		if _, err := fmt.Sscanf(string(content[14*(n-1):got]), "line %d\n", &last); err != nil || last != n {
			return "", fmt.Errorf("deleted: last line is %d, not %d: %w", last, n, err)
		}
		return fmt.Sprintf("deleted %d bytes", got), nil
	})
}

// grow waits until the file /go exists and then takes memory until it is killed.
func grow([]string) error {
	var held [][]byte
	return every(func(int) (string, error) {
		if _, err := os.Stat("/go"); os.IsNotExist(err) {
			return "grow waits", nil
		}
		for range 64 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
		return fmt.Sprintf("grow %d MiB", len(held)), nil
	})
}
