package cli

import (
	"context"
	"fmt"
	"strings"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"
)

// consent sees to it that no data is lost by a goal unless its user wants that:
// who is at a terminal is asked, elsewhere it has to have been said with --yes.
func (a *app) consent(ctx context.Context, c *client.Client, g *scheduler.Goal, yes bool) error {
	if yes {
		g.Options.RenewVolumes = true
		return nil
	}
	if changed, err := volumesChanged(ctx, c, *g); err != nil || !changed {
		return err
	}
	asked := *g
	asked.Options.RenewVolumes = true
	plan, err := c.Plan(ctx, asked)
	if err != nil {
		return err
	}
	lost := unsaid(plan)
	if len(lost) > 0 && !a.canAsk() {
		return fmt.Errorf("project %s: this destroys %s: say --yes to lose it, or take the change back; `gantry plan` shows all of it", plan.Project, strings.Join(lost, ", "))
	}
	if err := a.lose(ctx, plan.Project, lost); err != nil {
		return err
	}
	g.Options.RenewVolumes = len(lost) > 0
	return nil
}

// consentDown asks at a terminal before volumes are removed. Elsewhere
// --volumes is consent enough: whoever says it means it, as the scripts do that
// were written for Docker Compose.
func (a *app) consentDown(ctx context.Context, c planner, g scheduler.Goal) error {
	if !a.canAsk() {
		return nil
	}
	plan, err := c.Plan(ctx, g)
	if err != nil {
		return err
	}
	return a.lose(ctx, plan.Project, plan.Destroys())
}

func (a *app) canAsk() bool { return isTerminal(a.in) && isTerminal(a.err) }

// lose lists what data would be lost and asks whether it may be.
func (a *app) lose(ctx context.Context, project string, lost []string) error {
	if len(lost) == 0 {
		return nil
	}
	for _, l := range lost {
		fmt.Fprintf(a.err, "This destroys %s\n", l)
	}
	ok, err := a.ask(ctx, "Go on and lose it?")
	if err == nil && !ok {
		err = fmt.Errorf("project %s: nothing was changed", project)
	}
	return err
}

// unsaid is what a plan destroys without a flag that asks for it, and why.
func unsaid(p scheduler.Plan) []string {
	var lost []string
	for _, s := range p.Steps {
		if s.Destroys != "" && s.Do.What().Kind != "container" { // else --renew-anon-volumes
			lost = append(lost, fmt.Sprintf("%s (%s)", s.Destroys, s.Why))
		}
	}
	return lost
}

// volumesChanged tells quickly whether a goal defines a volume of its project
// otherwise than it was made: if not, there is nothing to plan or to ask.
func volumesChanged(ctx context.Context, c *client.Client, g scheduler.Goal) (bool, error) {
	if len(g.Project.Volumes) == 0 {
		return false, nil
	}
	have, err := c.Volumes(ctx, client.Filters{}.Add("label", scheduler.LabelProject+"="+g.Project.Name))
	if err != nil {
		return false, err
	}
	for _, v := range have {
		conf, ok := g.Project.Volumes[v.Labels[scheduler.LabelVolume]]
		if !ok {
			continue
		}
		conf.Name = v.Name
		if is := scheduler.VolumeHash(v.Labels); is != "" && is != compose.HashVolume(conf) {
			return true, nil
		}
	}
	return false, nil
}
