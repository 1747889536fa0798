package cli

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"gantry/client"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// sizeValue is a flag of a number of bytes: 512m, 2g, or -1 for no limit.
type sizeValue struct{ to *int64 }

func (s sizeValue) String() string {
	if s.to == nil || *s.to == 0 {
		return ""
	}
	return strconv.FormatInt(*s.to, 10)
}

func (s sizeValue) Set(text string) error {
	if text == "-1" {
		*s.to = -1
		return nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil {
		return fmt.Errorf("%q is not a size such as 512m", text)
	}
	*s.to = n
	return nil
}

func (s sizeValue) Type() string { return "size" }

// cpusValue is a flag of a number of processors: 1.5.
type cpusValue struct{ to *int64 }

func (s cpusValue) String() string {
	if s.to == nil || *s.to == 0 {
		return ""
	}
	return big.NewRat(*s.to, 1e9).FloatString(3)
}

func (s cpusValue) Set(text string) error {
	r, ok := new(big.Rat).SetString(text)
	if !ok || r.Sign() <= 0 {
		return fmt.Errorf("%q is not a number of processors such as 1.5", text)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return fmt.Errorf("%q has more than nine digits after the point, or is too large", text)
	}
	*s.to = r.Num().Int64()
	return nil
}

func (s cpusValue) Type() string { return "number" }

func (a *app) containerUpdateCommand() *cobra.Command {
	var u client.UpdateConfig
	var pids int64
	var restart string
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] CONTAINER...",
		Short:             "Change the limits or the restart policy of containers",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !anyChanged(cmd, "blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares", "cpus",
				"cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap", "pids-limit", "restart") {
				return errors.New("nothing to change: give a limit or --restart")
			}
			if cmd.Flags().Changed("pids-limit") {
				u.PidsLimit = &pids
			}
			if restart != "" {
				name, count, counted := strings.Cut(restart, ":")
				retries, err := strconv.Atoi(count)
				if counted && (err != nil || retries < 0) {
					return fmt.Errorf("--restart %q: %q is not a number of retries", restart, count)
				}
				u.RestartPolicy = client.RestartPolicyOf(name, retries)
			}
			return a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref string) error {
				warnings, err := c.UpdateContainer(ctx, ref, u)
				for _, w := range warnings {
					fmt.Fprintln(a.err, "warning:", w)
				}
				if err == nil {
					fmt.Fprintln(a.out, ref)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.Uint16Var(&u.BlkioWeight, "blkio-weight", 0, "share of block I/O, 10 to 1000")
	f.Int64Var(&u.CPUPeriod, "cpu-period", 0, "period of the CPU quota, in `µs`")
	f.Int64Var(&u.CPUQuota, "cpu-quota", 0, "CPU time in each period, in `µs`")
	f.Int64Var(&u.CPURealtimePeriod, "cpu-rt-period", 0, "period of real-time scheduling, in `µs`")
	f.Int64Var(&u.CPURealtimeRuntime, "cpu-rt-runtime", 0, "real-time scheduling in each period, in `µs`")
	f.Int64VarP(&u.CPUShares, "cpu-shares", "c", 0, "weight against other containers, 2 to 262144")
	f.Var(cpusValue{&u.NanoCPUs}, "cpus", "`number` of processors, 1.5")
	f.StringVar(&u.CpusetCpus, "cpuset-cpus", "", "processors to run on, `0-2,5`")
	f.StringVar(&u.CpusetMems, "cpuset-mems", "", "memory nodes to use, `0-1`")
	f.VarP(sizeValue{&u.Memory}, "memory", "m", "memory limit, `512m`")
	f.Var(sizeValue{&u.MemoryReservation}, "memory-reservation", "memory that is guaranteed, `256m`")
	f.Var(sizeValue{&u.MemorySwap}, "memory-swap", "memory and swap together, `1g`; -1 for no limit")
	f.Int64Var(&pids, "pids-limit", 0, "`number` of processes; 0 or -1 for no limit")
	f.StringVar(&restart, "restart", "", "`policy`: no, always, unless-stopped, on-failure[:RETRIES]")
	return cmd
}

func anyChanged(cmd *cobra.Command, names ...string) bool {
	return slices.ContainsFunc(names, cmd.Flags().Changed)
}

func (a *app) containerCommitCommand() *cobra.Command {
	var o client.CommitOptions
	cmd := &cobra.Command{
		Use:               "commit [OPTIONS] CONTAINER [NAME[:TAG]]",
		Short:             "Make an image of a container",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Name = args[1]
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			id, err := c.Commit(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, id)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", "`name` of who made it")
	f.StringArrayVarP(&o.Changes, "change", "c", nil, "Dockerfile `line` to apply: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR, …")
	f.StringVarP(&o.Message, "message", "m", "", "`text` for the image's history")
	f.BoolVar(&o.NoPause, "no-pause", false, "do not freeze it meanwhile")
	return cmd
}
