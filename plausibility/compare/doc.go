// Package compare holds score files and what can be concluded from them: which
// of two videos surprised a model more, how often that agrees with which one is
// possible, and how sure the answer is.
//
// It is arithmetic on recorded numbers. Nothing here decodes a video, loads a
// model or needs cgo, so the coordinator can compare score files as well as the
// command line can.
//
//	file.go       the score file; validate.go: what it must hold; decode.go: reading and writing it
//	protocol.go   named settings
//	pairs.go      its videos -> groups and pairs
//	aggregate.go  the surprise of a video's windows -> one number
//	candidates.go score files -> columns: a model beside its twin, or several models (column.go)
//	trainings.go  which files are trainings of one model
//	table.go      columns -> Table
//	row.go        one row of it, and the resampling of groups (bootstrap.go)
//	judge.go      what a column makes of the pairs and groups of a row
//	tests.go      p-values; verdict.go: what intervals and p-values let a row say
//	halves.go     what is chosen or calibrated on one half of the groups, and measured on the other
//	like.go       which files may be compared at all
//	text.go       a table for the terminal; sentences.go: in words
//	listing.go    videos without labels, by how much they surprise
//	metrics.go    single videos; single.go: their intervals; published.go: the published metrics, exactly;
//	              published_table.go: those of a score file
//
// Letters used for shapes:
//
//	N videos, C context lengths, W windows of one video, G groups, R resamples; several
//	trainings of one model are its seeds
//
// A surprise is a mean absolute error between predicted and encoded features
// that have unit variance; it has no unit. Accuracies, AUROC and AUPRC are
// shares from 0 to 1; only tables and the published metrics print percentages.
package compare
