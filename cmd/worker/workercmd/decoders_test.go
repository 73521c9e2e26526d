package workercmd

import (
	"testing"

	"gocloud.dev/blob"
)

// The drivers of object stores are imported for their effect alone, which nothing else would miss.
func TestObjectStoresOfVideosHaveDrivers(t *testing.T) {
	for _, scheme := range []string{"s3", "gs"} {
		if !blob.DefaultURLMux().ValidBucketScheme(scheme) {
			t.Errorf("%s:// has no driver", scheme)
		}
	}
}
