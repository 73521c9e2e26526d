package chaos

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A worker's clock jumps without a line of its code knowing: the function that its processes ask for the time, which the
// kernel maps into each of them (the vDSO), is replaced by one that adds an offset to the wall clock. The monotonic clock
// stays, as it does when somebody sets a machine's clock.

// clockCode is that function: clock_gettime by system call, then the offset added to the seconds of CLOCK_REALTIME.
var clockCode = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov  eax, 228
	0x0f, 0x05, //                   syscall
	0x85, 0xff, //                   test edi, edi
	0x75, 0x0a, //                   jne  end
	0x48, 0x8b, 0x0d, 0x0e, 0x00, 0x00, 0x00, // mov rcx, [rip+14]: offset
	0x48, 0x01, 0x0e, //             add  [rsi], rcx
	0xc3,                                                       // end: ret
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, // to a multiple of 8 bytes
	0, 0, 0, 0, 0, 0, 0, 0, // offset, seconds
}

// clockOffset is where the offset lies in clockCode.
const clockOffset = 32

const vdsoSymbol = "__vdso_clock_gettime"

// startWithClock starts a process whose clock can be set.
func startWithClock(cmd *exec.Cmd) error {
	runtime.LockOSThread() // the thread that traces is the one that starts
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Ptrace = true // it stops before its first instruction
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var status syscall.WaitStatus
	_, err := syscall.Wait4(pid, &status, 0, nil)
	if err == nil && !status.Stopped() {
		err = fmt.Errorf("it did not stop before it began: %v", status)
	}
	if err == nil {
		err = writeClock(pid, 0, clockCode)
	}
	if err == nil {
		err = syscall.PtraceDetach(pid)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("giving process %d a clock: %w", pid, err), cmd.Process.Kill(), cmd.Wait())
	}
	return nil
}

// setClock sets how far the wall clock of a process that startWithClock started is ahead.
func setClock(pid int, ahead time.Duration) error {
	return writeClock(pid, clockOffset, binary.LittleEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))))
}

// writeClock writes to a process's clock function at an offset.
func writeClock(pid int, at int64, data []byte) error {
	address, err := clockFunction(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	_, err = mem.WriteAt(data, address+at)
	return err
}

// clockFunction is where a process has the function that tells the time, at the next multiple of 8 bytes that has room.
func clockFunction(pid int) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, fmt.Errorf("memory map %q: %w", line, err)
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return 0, err
		}
		defer mem.Close()
		image := make([]byte, to-from)
		if _, err := mem.ReadAt(image, from); err != nil {
			return 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name != vdsoSymbol {
				continue
			}
			if s.Size < uint64(len(clockCode)) || s.Value%8 != 0 {
				return 0, fmt.Errorf("%s of %d bytes at %#x leaves no room", vdsoSymbol, s.Size, s.Value)
			}
			return from + int64(s.Value), nil
		}
		return 0, fmt.Errorf("the vDSO has no %s", vdsoSymbol)
	}
	return 0, errors.New("no vDSO")
}

// clocksJump tells whether this machine lets a test set the clock of a process, and why not.
func clocksJump(t *testing.T) error {
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := startWithClock(cmd); err != nil {
		return err
	}
	return errors.Join(setClock(cmd.Process.Pid, time.Hour), in.Close(), cmd.Wait())
}

// asClock makes the test's own program tell its clocks, a line for each line that it reads.
const asClock = "SURMISE_CHAOS_CLOCK"

func tellClocks() {
	began := time.Now()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		now := time.Now()
		fmt.Println(now.Unix(), now.Sub(began).Milliseconds())
	}
}

// The wall clock of a running Go program jumps, and its monotonic clock does not.
func TestAClockJumps(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), asClock+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startWithClock(cmd); err != nil {
		t.Skipf("this machine lets no test set the clock of a process: %v", err)
	}
	began := time.Now()
	lines := bufio.NewReader(out)
	for _, ahead := range []time.Duration{0, time.Hour, -24 * time.Hour, 0} {
		if err := setClock(cmd.Process.Pid, ahead); err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		var wall, since int64
		if _, err := fmt.Fscanln(lines, &wall, &since); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(wall, 0).Add(-ahead)
		if at.Before(from.Truncate(time.Second)) || at.After(time.Now()) {
			t.Errorf("with a clock set %v ahead it is %v there, and %v here", ahead, at, from)
		}
		if elapsed := time.Duration(since) * time.Millisecond; elapsed < 0 || elapsed > time.Since(began) {
			t.Errorf("with a clock set %v ahead %v have passed there, and %v here", ahead, elapsed, time.Since(began))
		}
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}
