package facts

import (
	"context"
	"sync"

	"keyward/broker/api"
)

// group collects facts that are read together.
type group struct {
	// name of what is remembered; empty for facts that are cheap and always collected anew.
	name    string
	collect func(context.Context, Sources) []api.Fact
}

// atOnce bounds how many programs and files are read at the same time.
const atOnce = 4

// groups of a machine, in the order in which they appear in the evidence.
func groups(src Sources) []group {
	all := []group{{"", plainFacts}, {"updated", updatedFacts}, {"software", softwareFacts}}
	if len(src.Configured.Packages) > 0 {
		all = append(all, group{"packages", packageFacts})
	}
	for _, path := range src.Configured.Files {
		all = append(all, group{"file " + path, func(ctx context.Context, s Sources) []api.Fact { return fileFacts(ctx, s, path) }})
	}
	for _, script := range src.Configured.Scripts {
		all = append(all, group{"script " + script.Name, func(ctx context.Context, s Sources) []api.Fact { return script.facts(ctx, s) }})
	}
	return all
}

// gather runs groups side by side and keeps their order.
func gather(ctx context.Context, src Sources, all []group) []api.Fact {
	found := make([][]api.Fact, len(all))
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for i, g := range all {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			found[i] = src.remembered(ctx, g)
		})
	}
	running.Wait()
	out := []api.Fact{}
	for _, facts := range found {
		out = append(out, facts...)
	}
	return out
}
