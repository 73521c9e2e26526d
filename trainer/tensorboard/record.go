package tensorboard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A record is
//
//	8 bytes   length n, little-endian
//	4 bytes   masked CRC-32C of those
//	n bytes   data
//	4 bytes   masked CRC-32C of the data
const maxRecordBytes = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is a checksum as records hold it: a CRC of data that holds CRCs is weak.
func masked(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func appendRecord(out, data []byte) []byte {
	length := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	out = append(out, length...)
	out = binary.LittleEndian.AppendUint32(out, masked(length))
	out = append(out, data...)
	return binary.LittleEndian.AppendUint32(out, masked(data))
}

// readRecord returns the data of the next record; io.EOF or io.ErrUnexpectedEOF at the end.
func readRecord(r *bufio.Reader) ([]byte, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if got, want := binary.LittleEndian.Uint32(head[8:]), masked(head[:8]); got != want {
		return nil, fmt.Errorf("checksum of its length is %08x, want %08x", got, want)
	}
	n := binary.LittleEndian.Uint64(head[:8])
	if n > maxRecordBytes {
		return nil, fmt.Errorf("%d bytes, want at most %d", n, maxRecordBytes)
	}
	data := make([]byte, n+4)
	if _, err := io.ReadFull(r, data); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if got, want := binary.LittleEndian.Uint32(data[n:]), masked(data[:n]); got != want {
		return nil, fmt.Errorf("checksum is %08x, want %08x", got, want)
	}
	return data[:n], nil
}
