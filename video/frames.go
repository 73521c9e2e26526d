package video

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// Frames of a file come from one of three places: memory, a shard on disk, or a decoder.

// Bounds of what a clip may cost.
const (
	fillFrames = 4096 // a longer file is not decoded whole for one clip; its inspection may have kept it
	seekFrames = 48   // a clip that begins earlier is reached as fast from the start
	maxDigests = 50_000
)

// seekPlans are the ways to seek that are tried in turn. OpenCV counts frames from a key frame on as if they came at
// the header's rate, so in a file of variable rate it goes too far: then it is sent to an earlier time, and may land on
// any of more frames.
var seekPlans = []struct {
	before int     // frames before the one sought that a seek may land on
	early  float64 // seconds
}{{8, 0}, {512, 4}}

// read calls use for each of the frames named, ascending, numbers that come twice once. begin is called first, and
// again when all begins anew.
func (d *Dataset) read(ctx context.Context, f *file, numbers []int, begin func(), use func(number int, pix []uint8)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	numbers = slices.Compact(slices.Clone(numbers))
	pix, err := d.kept(ctx, f)
	if err != nil {
		return err
	}
	if pix != nil {
		begin()
		size := f.height * f.width * 3
		for _, number := range numbers {
			use(number, pix[number*size:(number+1)*size])
		}
		d.pool.stats.clipsFromMemory.Add(1)
		return nil
	}
	if done, err := d.readShard(f, numbers, begin, use); done || err != nil {
		if done {
			d.pool.stats.clipsFromDisk.Add(1)
		}
		return err
	}
	if err := d.decode(ctx, f, numbers, begin, use); err != nil {
		return err
	}
	d.pool.stats.clipsDecoded.Add(1)
	return nil
}

// readShard reads frames from disk; done is false when they are not there.
func (d *Dataset) readShard(f *file, numbers []int, begin func(), use func(number int, pix []uint8)) (done bool, err error) {
	if f.shard == "" {
		return false, nil
	}
	s := d.pool.o.Clips.take(f.shard)
	if s == nil {
		return false, nil
	}
	if s.frames != f.frames || s.height != f.height || s.width != f.width {
		err = errors.New("it is of another size")
	}
	begin()
	for _, number := range numbers {
		if err == nil {
			err = s.read(number, func(pix []uint8) { use(number, pix) })
		}
	}
	d.pool.o.Clips.give(s, err != nil)
	if err != nil {
		slog.Warn("decoded frames on disk are damaged; the video is decoded again", "video", f.item.Name(), "error", err)
		return false, nil
	}
	return true, nil
}

// decode has the frames decoded. They are held to what the inspection found of them, however they were reached.
func (d *Dataset) decode(ctx context.Context, f *file, numbers []int, begin func(), use func(number int, pix []uint8)) error {
	request := wire.Request{Numbers: numbers, Inspected: true, Digests: true, Short: d.spec.ShortSide}
	for {
		var plan int
		request.Seek, plan = d.seek(f, numbers)
		got := 0
		done, err := d.pool.decode(ctx, f.item, request, func() { got = 0; begin() }, func(fr frame) error {
			if fr.height != f.height || fr.width != f.width {
				return fault(f.item.Name(), Changed, " since it was inspected: frames of %dx%d, were %dx%d", fr.width, fr.height, f.width, f.height)
			}
			if got >= len(numbers) || fr.number != numbers[got] {
				return fault(f.item.Name(), Crashed, ": it delivered frame %d, which nobody asked for", fr.number)
			}
			if fr.digest != f.track.digests[fr.number] {
				return fault(f.item.Name(), Changed, " since it was inspected: frame %d is another", fr.number)
			}
			got++
			use(fr.number, fr.pix)
			return nil
		})
		if err == nil && done.SeekFailed && request.Seek != nil {
			f.mu.Lock()
			f.seeks = max(f.seeks, plan+1)
			f.mu.Unlock()
			continue
		}
		if err == nil && got < len(numbers) {
			err = fault(f.item.Name(), Changed, " since it was inspected: no frame %d, had %d", numbers[got], f.frames)
		}
		return err
	}
}

// seek says how to reach the frames without decoding all before them, and which of seekPlans that is; nothing when it
// is not worth it.
func (d *Dataset) seek(f *file, numbers []int) (*wire.Seek, int) {
	f.mu.Lock()
	plan := f.seeks
	f.mu.Unlock()
	if plan == len(seekPlans) {
		return nil, plan
	}
	first, last := numbers[0], numbers[len(numbers)-1]
	from := max(0, first-seekPlans[plan].before)
	if first < seekFrames || last-from >= maxDigests {
		return nil, plan
	}
	at := max(0, f.track.times[first]-f.track.times[0]-seekPlans[plan].early)
	return &wire.Seek{At: at, Want: first, First: from, Digests: f.track.digests[from : last+1]}, plan
}

// kept returns a file's frames if they are in memory. A file whose verdict was known when the dataset was opened is
// decoded whole at its first use, if there is room for its frames in memory or on disk.
func (d *Dataset) kept(ctx context.Context, f *file) ([]uint8, error) {
	f.mu.Lock() // a second clip of the same file waits rather than decode it too
	defer f.mu.Unlock()
	if f.tried {
		return f.pix, nil
	}
	f.tried = true
	if f.frames > fillFrames || !d.hasRoom(f) {
		return nil, nil
	}
	keep := d.keepFrames(ctx, f)
	request := wire.Request{Step: 1, Inspected: true, Digests: true, Short: d.spec.ShortSide}
	done, err := d.pool.decode(ctx, f.item, request, func() {}, func(fr frame) error {
		if fr.number >= f.frames || fr.digest != f.track.digests[fr.number] || fr.height != f.height || fr.width != f.width {
			return fault(f.item.Name(), Changed, " since it was inspected: frame %d is another", fr.number)
		}
		keep.put(fr)
		return nil
	})
	if err == nil && done.Frames != f.frames {
		err = fault(f.item.Name(), Changed, " since it was inspected: %d frames, were %d", done.Frames, f.frames)
	}
	if err != nil {
		keep.drop()
		f.tried = ctx.Err() == nil
		return nil, err
	}
	f.pix, _ = keep.finish()
	return f.pix, nil
}

func (d *Dataset) hasRoom(f *file) bool {
	if clips := d.pool.o.Clips; clips != nil {
		return clips.fits(f.frames, f.height, f.width)
	}
	size := int64(f.frames) * int64(f.height) * int64(f.width) * 3
	return size <= d.room.perFile && size <= d.room.left.Load()
}

// keep is where the frames of one file go while it is decoded whole: to disk, to memory, or nowhere.
type keep struct {
	put    func(frame)
	finish func() (pix []uint8, tried bool) // frames in memory, if they are; whether frames were seen
	drop   func()
}

// keepWhileInspected prepares a file for its inspection. Frames that are on disk already are not kept again.
func (d *Dataset) keepWhileInspected(ctx context.Context, f *file) keep {
	clips := d.pool.o.Clips
	if clips == nil {
		return d.keepFrames(ctx, f)
	}
	if identity, err := d.identity(ctx, f.item); err == nil { // else the verdict will say why not
		f.shard = shardName(f.item.Name(), identity, d.spec.ShortSide)
	}
	if f.shard != "" && !clips.has(f.shard) {
		return d.keepFrames(ctx, f)
	}
	return keep{func(frame) {}, func() ([]uint8, bool) { return nil, true }, func() {}}
}

func (d *Dataset) identity(ctx context.Context, item source.Item) (fileIdentity, error) {
	path, release, err := d.pool.local(ctx, item)
	if err != nil {
		return fileIdentity{}, err
	}
	defer release()
	return identityOf(item.Name(), path)
}

func (d *Dataset) keepFrames(ctx context.Context, f *file) keep {
	if d.pool.o.Clips == nil {
		kept := &keeper{room: &d.room}
		return keep{kept.keep, func() ([]uint8, bool) { return kept.all(), kept.begun }, kept.drop}
	}
	lost := func(err error) {
		slog.Warn("decoded frames are not kept", "video", f.item.Name(), "error", err) // it costs time, not the run
	}
	var w *shardWriter
	begun := false
	put := func(fr frame) {
		if fr.number == 0 {
			begun = true
			switch {
			case w != nil:
				w.restart()
			default:
				var err error
				if w, err = d.pool.o.Clips.begin(f.shard); err != nil {
					lost(err)
				}
			}
		}
		if w != nil {
			w.put(fr)
		}
	}
	drop := func() {
		if w != nil {
			w.drop()
		}
	}
	finish := func() ([]uint8, bool) {
		if w == nil {
			return nil, begun
		}
		now, err := d.identity(ctx, f.item)
		if err != nil || shardName(f.item.Name(), now, d.spec.ShortSide) != f.shard {
			w.drop() // it changed while it was decoded
			return nil, begun
		}
		if err := w.finish(); err != nil {
			lost(err)
		}
		return nil, begun
	}
	return keep{put, finish, drop}
}

// memory is the room left for decoded frames, in bytes.
type memory struct {
	left    atomic.Int64
	perFile int64
}

// keeper collects the frames of one file in memory, and gives up when there is no room.
type keeper struct {
	room  *memory
	pix   []uint8
	begun bool // frames have been seen
	full  bool
}

func (k *keeper) keep(f frame) {
	if f.number == 0 { // anew
		k.drop()
		k.full, k.begun = false, true
	}
	if k.full {
		return
	}
	n := int64(len(f.pix))
	if int64(len(k.pix))+n > k.room.perFile {
		k.drop()
		return
	}
	k.pix = append(k.pix, f.pix...)
	if k.room.left.Add(-n) < 0 {
		k.drop()
	}
}

// drop gives the room back.
func (k *keeper) drop() {
	k.room.left.Add(int64(len(k.pix)))
	k.pix, k.full = nil, true
}

// all returns the frames without spare capacity, or nil where there was no room, or nothing was decoded.
func (k *keeper) all() []uint8 {
	if k.full || len(k.pix) == 0 {
		return nil
	}
	return append(make([]uint8, 0, len(k.pix)), k.pix...)
}
