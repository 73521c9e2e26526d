// Package stores lets package artifact open object stores. Commands import it, for its effect; the SDK of a store stays
// out of what only reads folders.
package stores

import _ "gocloud.dev/blob/s3blob" // s3://
