package pjrt

import "fmt"

// Device is one accelerator.
type Device struct {
	client *Client
	handle handle
	// ID counts the devices that the client sees.
	ID int
	// Hardware is the number under which the driver knows the device; -1: unknown.
	Hardware int
	// Kind names the model: "NVIDIA H200".
	Kind string
}

func (c *Client) device(h handle) (*Device, error) {
	description := handleOf{object: h}
	if err := call(c.plugin, deviceGetDescription, &description); err != nil {
		return nil, err
	}
	id := numberOf{object: description.result}
	if err := call(c.plugin, deviceDescriptionID, &id); err != nil {
		return nil, err
	}
	kind := textOf{object: description.result}
	if err := call(c.plugin, deviceDescriptionKind, &kind); err != nil {
		return nil, err
	}
	hardware := numberOf{object: h}
	if err := call(c.plugin, deviceLocalHardwareID, &hardware); err != nil {
		return nil, err
	}
	return &Device{client: c, handle: h, ID: int(id.number), Hardware: int(hardware.number), Kind: kind.text.String()}, nil
}

// Memory is what an allocator says of a device, bytes; -1: it does not say.
type Memory struct {
	InUse, Peak int64
	Limit       int64 // most that can be in use
	LargestFree int64 // longest free stretch
	Pool        int64 // taken from the driver, in use or not
}

// Memory asks the allocator.
func (d *Device) Memory() (Memory, error) {
	if err := d.client.enter(); err != nil {
		return Memory{}, fmt.Errorf("asking for the memory of %s: %w", d, err)
	}
	defer d.client.leave()
	args := memoryStatsArgs{device: d.handle}
	if err := call(d.client.plugin, deviceMemoryStats, &args); err != nil {
		return Memory{}, fmt.Errorf("asking for the memory of %s: %w", d, err)
	}
	return Memory{InUse: args.inUse, Peak: args.peak.or(-1), Limit: args.limit.or(-1), LargestFree: args.largestFree.or(-1), Pool: args.pool.or(-1)}, nil
}

func (o optional64) or(other int64) int64 {
	if o.set {
		return o.value
	}
	return other
}

// String names the device for people: "NVIDIA H200 (cuda 0)".
func (d *Device) String() string {
	return fmt.Sprintf("%s (%s %d)", d.Kind, d.client.platform, d.Hardware)
}
