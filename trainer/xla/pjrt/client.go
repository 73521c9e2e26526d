package pjrt

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"
)

// Client holds the devices of a plugin that its options let it see.
type Client struct {
	plugin   *Plugin
	handle   handle
	platform string
	version  string
	devices  []*Device

	mu          sync.Mutex
	closed      bool
	executables int           // open
	buffers     int           // open
	pending     int           // calls under way, and events that are not ready yet
	idle        chan struct{} // closed when pending is 0 and somebody waits for that
	lost        error         // the first event that could not be destroyed
}

// NewClient takes the devices. Close gives them back.
func (p *Plugin) NewClient(options ...Option) (*Client, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	values, err := named(options, &pins)
	if err != nil {
		return nil, fmt.Errorf("opening a device with %s: %w", p.path, err)
	}
	args := clientCreateArgs{optionCount: uintptr(len(values))}
	if len(values) > 0 {
		args.options = &values[0]
	}
	if err := call(p, clientCreate, &args); err != nil {
		return nil, fmt.Errorf("opening a device with %s: %w", p.path, err)
	}
	c := &Client{plugin: p, handle: args.client}
	reportLeak(c, "client")
	if err := c.describe(); err != nil {
		return nil, errors.Join(fmt.Errorf("looking at the devices of %s: %w", p.path, err), c.Close())
	}
	return c, nil
}

func (c *Client) describe() error {
	name := textOf{object: c.handle}
	if err := call(c.plugin, clientPlatformName, &name); err != nil {
		return err
	}
	version := textOf{object: c.handle}
	if err := call(c.plugin, clientPlatformVersion, &version); err != nil {
		return err
	}
	c.platform, c.version = name.text.String(), version.text.String()

	devices := clientDevicesArgs{client: c.handle}
	if err := call(c.plugin, clientAddressableDevices, &devices); err != nil {
		return err
	}
	if devices.devices == nil {
		return nil
	}
	for _, h := range unsafe.Slice(devices.devices, min(devices.count, maxDevices)) {
		d, err := c.device(h)
		if err != nil {
			return err
		}
		c.devices = append(c.devices, d)
	}
	return nil
}

const maxDevices = 4096

// Platform is what the devices are: "cuda".
func (c *Client) Platform() string { return c.platform }

// PlatformVersion is the plugin's words on the software below it: "PJRT C API\ncuda 13000".
func (c *Client) PlatformVersion() string { return c.version }

// Devices are those that programs can run on.
func (c *Client) Devices() []*Device { return c.devices }

// Plugin is what the client came from.
func (c *Client) Plugin() *Plugin { return c.plugin }

// closePatience is how long Close waits for transfers and runs that were started. They take milliseconds; a device that
// does not end them in this time hangs.
const closePatience = 30 * time.Second

// Close gives the devices back, after the work that was started. While executables or buffers of the client are open, it
// refuses. Closing it again does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	if c.executables+c.buffers > 0 {
		defer c.mu.Unlock()
		return fmt.Errorf("closing the client of %s: %d executables and %d buffers are open", c.plugin.path, c.executables, c.buffers)
	}
	c.closed = true
	var idle chan struct{}
	if c.pending > 0 {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()

	if idle != nil {
		select {
		case <-idle:
		case <-time.After(closePatience):
			return fmt.Errorf("closing the client of %s: the device has not ended its work in %v; its memory is not given back", c.plugin.path, closePatience)
		}
	}
	forget(c)
	err := call(c.plugin, clientDestroy, &ofHandle{object: c.handle})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(err, c.lost); err != nil {
		return fmt.Errorf("closing the client of %s: %w", c.plugin.path, err)
	}
	return nil
}

var errClosed = errors.New("it is closed")

// add counts something that was made from the client; n is one of its counters.
func (c *Client) add(n *int, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n += by
}

// enter begins a call that needs the client to stay open until leave.
func (c *Client) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("the client of %s: %w", c.plugin.path, errClosed)
	}
	c.pending++
	return nil
}

func (c *Client) leave() { c.ended(nil) }

// ended counts down what enter or follow counted.
func (c *Client) ended(lost error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending--
	if lost != nil && c.lost == nil {
		c.lost = lost
	}
	if c.pending == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}
