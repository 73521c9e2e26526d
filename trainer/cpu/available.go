package cpu

// AvailableMemory returns the bytes that this process can still take: what the system has free or can free, and no more
// than its control groups allow. ok is false where the system does not say.
func AvailableMemory() (bytes int64, ok bool) { return availableMemory() }
