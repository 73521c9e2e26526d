package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/artifact"
	"github.com/surmise-ml/surmise/internal/durable"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func newFetchCommand() *cobra.Command {
	var out, address string
	cmd := &cobra.Command{
		Use:   "fetch JOB [ARTIFACT…]",
		Short: "Bring what a job left from where artifacts are kept, its digests checked",
		Long: `Bring what a job left from where artifacts are kept into a folder, its digests checked: all of it, or the artifacts
named, such as model, scores or events. The name of each file or folder is printed.

A coordinator with --artifacts names keys of that store; give the same --artifacts here. Without one it names files, which
must be seen from here.`,
		Args: someArguments("a job, and perhaps the names of its artifacts"),
	}
	to := addCoordinatorFlag(cmd)
	cmd.ValidArgsFunction = completeJobNames(to)
	cmd.Flags().StringVar(&out, "out", ".", "folder that the artifacts go into")
	cmd.Flags().StringVar(&address, "artifacts", "", "the coordinator's --artifacts: file:///FOLDER or s3://BUCKET/PREFIX?OPTIONS")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := connect(*to)
		if err != nil {
			return err
		}
		defer client.Close()
		job, err := client.GetJob(cmd.Context(), &surmisev1.GetJobRequest{Name: jobName(args[0])})
		if err != nil {
			return err
		}
		wanted, err := chooseArtifacts(job, args[1:])
		if err != nil {
			return err
		}
		for _, a := range wanted {
			local, err := fetchArtifact(cmd.Context(), a, address, out)
			if err != nil {
				return fmt.Errorf("artifact %s of %s: %w", a.GetName(), job.GetName(), err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), local)
		}
		return nil
	}
	return cmd
}

// chooseArtifacts are those of a job that are named, or all.
func chooseArtifacts(job *surmisev1.Job, names []string) ([]*surmisev1.Artifact, error) {
	all := job.GetResult().GetArtifacts()
	if len(all) == 0 {
		return nil, badInput(fmt.Errorf("%s has left nothing: it is %s", job.GetName(), job.GetState()))
	}
	if len(names) == 0 {
		return all, nil
	}
	var wanted []*surmisev1.Artifact
	for _, name := range names {
		i := slices.IndexFunc(all, func(a *surmisev1.Artifact) bool { return a.GetName() == name })
		if i < 0 {
			return nil, badInput(fmt.Errorf("%s has left no %s", job.GetName(), name))
		}
		wanted = append(wanted, all[i])
	}
	return wanted, nil
}

// fetchArtifact brings one into a folder, whole or not at all.
func fetchArtifact(ctx context.Context, a *surmisev1.Artifact, address, out string) (local string, err error) {
	store, key, err := storeOf(ctx, a.GetPath(), address)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	local = filepath.Join(out, path.Base(key))
	if _, err := os.Lstat(local); !errors.Is(err, fs.ErrNotExist) {
		return "", badInput(fmt.Errorf("%s is there already", local))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(out, durable.Unfinished)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp) // a folder that was renamed is gone
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	m, err := store.Fetch(ctx, artifact.Ref{Path: key, SHA256: a.GetSha256()}, temp, nil)
	if err != nil {
		return "", err
	}
	from := temp
	if m.Single {
		from = filepath.Join(temp, path.Base(key))
	}
	return local, durable.Rename(from, local)
}

// storeOf opens the store that an artifact lies in, and says its key there.
func storeOf(ctx context.Context, where, address string) (*artifact.Store, string, error) {
	if filepath.IsAbs(where) {
		i := strings.LastIndex(filepath.ToSlash(where), "/jobs/")
		if _, err := os.Stat(where); err != nil || i < 0 {
			return nil, "", errors.Join(fmt.Errorf("it lies at %s, which is not seen from here", where), err)
		}
		store, err := artifact.OpenFolder(where[:i], artifact.Options{})
		return store, filepath.ToSlash(where[i+1:]), err
	}
	if address == "" {
		return nil, "", badInput(fmt.Errorf("it lies at %s in an artifact store: give the coordinator's --artifacts", where))
	}
	store, err := artifact.Open(ctx, address, artifact.Options{})
	if err != nil {
		return nil, "", badInput(err)
	}
	return store, where, nil
}
