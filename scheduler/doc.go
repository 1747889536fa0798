// Package scheduler knows what must be done, and in which order, to bring a
// Compose project from what is to what is wanted. It knows nothing of
// containers beyond the values it is shown, and nothing of sockets, HTTP or
// files but its own.
//
//	Goal (wanted) ─┐
//	               ├─ Reconcile ──► Plan ──► Execute ──► Engine
//	State (is) ────┘    pure        a value    walks it    acts
//
// Up, scale, update and down are one [Reconcile]: they differ in the [Goal]
// alone, and a goal without services is `down`. Reconcile reads no clock and no
// disk and asks nobody: the same goal and state give the same plan, byte for
// byte. What it would like to ask a user is data in the plan (Step.Destroys).
//
// A [Scheduler] keeps the goals on disk, one file per project, and walks each
// project towards its goal in one goroutine: look, plan, execute, until the
// plan is empty. Nothing is remembered between two looks but the goal itself,
// so a walk broken off anywhere is taken up where it stopped.
//
// # What is already done, told from what is
//
// For that, every question a walk asks must have its answer in the state:
//
//   - Whether a container is out of date: it carries the hash of its service,
//     of the networks and volumes it uses, its image and a generation as labels.
//     Forcing a recreation raises the generation wanted.
//   - Whether an exited container must be started: Goal.Services says when each
//     service was last asked for ([Want].Asked). What exited before that is
//     started; what exited, or was stopped by a call, after it has had its run.
//   - Whether a container joins the namespaces of one that is gone: it says
//     which containers it joined.
//   - Whether a service must restart because a dependency was recreated
//     (depends_on with restart: true): every replica of the dependency is
//     younger than its own start.
//
// One exception to "up starts what has exited", as Docker Compose has it: a
// service that another waits for with service_completed_successfully, that
// exited with code 0 and has not changed, is done. It runs again when it
// changes, when its recreation is forced or when it is asked for by name.
package scheduler
