package build

import (
	"context"
	"errors"
	"fmt"
	"net"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress what they send
	"google.golang.org/grpc/status"
)

// ServeGRPC lets a client of BuildKit's talk over conn, which speaks HTTP/2
// from its first byte. It returns at once; the builder closes conn.
func (b *Builder) ServeGRPC(conn net.Conn) error {
	o, err := b.buildkit()
	if err != nil {
		conn.Close()
		return err
	}
	if !o.door.enter(conn) {
		conn.Close()
		return errClosed
	}
	return nil
}

// ServeSession makes conn, on which the peer serves HTTP/2, the session that
// builds ask their caller by. head are the headers that came with it. It
// returns when the session ends.
func (b *Builder) ServeSession(ctx context.Context, conn net.Conn, head map[string][]string) error {
	o, err := b.buildkit()
	if err != nil {
		conn.Close()
		return err
	}
	if err := o.sessions.HandleConn(log.WithLogger(ctx, o.chatter), conn, head); err != nil {
		return fmt.Errorf("build session: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// dial is a connection to BuildKit from this process.
func (o *opened) dial() (net.Conn, error) {
	ours, its := net.Pipe()
	if !o.door.enter(its) {
		ours.Close()
		its.Close()
		return nil, errClosed
	}
	return ours, nil
}

// client is a client of BuildKit's in this process.
func (o *opened) client(ctx context.Context) (*bkclient.Client, error) {
	return bkclient.New(ctx, "",
		bkclient.WithContextDialer(func(context.Context, string) (net.Conn, error) { return o.dial() }),
		bkclient.WithSessionDialer(o.dialSession))
}

// dialSession is a session's connection from this process.
func (o *opened) dialSession(ctx context.Context, _ string, head map[string][]string) (net.Conn, error) {
	ours, its := net.Pipe()
	o.serving.Go(func() { _ = o.sessions.HandleConn(log.WithLogger(ctx, o.chatter), its, head) })
	return ours, nil
}

// around gives the calls of clients BuildKit's logger, and does what there is to
// be done when one was a build.
func (o *opened) around(b *Builder) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(log.WithLogger(ctx, o.chatter), req)
		}, grpcerrors.UnaryServerInterceptor, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if solve, ok := req.(*controlapi.SolveRequest); ok {
				defer b.grants.give(solve.Session, solve.Entitlements)()
			}
			answer, err := next(ctx, req)
			if info.FullMethod == controlapi.Control_Solve_FullMethodName {
				err = b.over(ctx, o, err)
			}
			return answer, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, &logged{s, log.WithLogger(s.Context(), o.chatter)})
		}, grpcerrors.StreamServerInterceptor),
	}
}

// over is the end of a build, whoever asked for it. What a step has written that
// failed belongs to nobody, and goes at once: it may be what fills the disk.
func (b *Builder) over(ctx context.Context, o *opened, err error) error {
	if b.Grown != nil {
		b.Grown()
	}
	if err == nil {
		return nil
	}
	b.letGo(context.WithoutCancel(ctx), err)
	err = coded(image.FullNow(b.Root, err))
	o.serving.Go(func() {
		if err := b.Collect(context.WithoutCancel(ctx)); err != nil {
			b.Log.Error("collect what a failed build has left", "error", err)
		}
	})
	return err
}

// coded gives an error the code of its class, which is all of a class that
// reaches a client.
func coded(err error) error {
	if grpcerrors.Code(err) != codes.Unknown {
		return err
	}
	if code := status.Code(errgrpc.ToGRPC(err)); code != codes.Unknown {
		return grpcerrors.WrapCode(err, code)
	}
	return err
}

// classed is the opposite, for a client in this process.
func classed(err error) error {
	if st, ok := grpcerrors.AsGRPCStatus(err); ok && st.Code() != codes.Unknown && st.Code() != codes.OK {
		return errgrpc.ToNative(st.Err())
	}
	return err
}

// letGo releases what a build has that failed for want of a file of its context:
// BuildKit gives the whole context along with the error, for a frontend to look
// at, and where none does, the cache would hold it for good.
func (b *Builder) letGo(ctx context.Context, err error) {
	var kept *solver.SlowCacheError
	var looked *solvererrors.SolveError // a frontend has it, and lets go of it
	if !errors.As(err, &kept) || errors.As(err, &looked) || kept.Result == nil {
		return
	}
	if err := kept.Result.Release(ctx); err != nil {
		b.Log.Warn("let go of the context of a failed build", "error", err)
	}
}

// logged is a stream whose context has the logger.
type logged struct {
	grpc.ServerStream
	ctx context.Context
}

func (l *logged) Context() context.Context { return l.ctx }
