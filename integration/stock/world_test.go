package stock

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// known is an ID that a side gave to what the sequence has a name for.
type known struct{ id, handle string }

// prefix is how much of an ID stands for all of it in a handle with "~".
const prefix = 20

// side is one of the two containerds.
type side struct {
	node    *harness.Node
	runtime runtime.RuntimeServiceClient
	images  runtime.ImageServiceClient

	mu     sync.Mutex
	known  []known
	events map[string][]string // by container ID
}

// id is what this side calls something: a handle, a handle with "~" for a prefix of the ID, or an ID of nothing.
func (s *side) id(handle string) string {
	name, short := strings.CutSuffix(handle, "~")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		if k.handle == name {
			if short {
				return k.id[:prefix]
			}
			return k.id
		}
	}
	return handle
}

func (s *side) learn(handle, id string) {
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = append(s.known, known{id, handle})
}

// listen collects the side's events until the test ends.
func (s *side) listen(t *testing.T) {
	t.Helper()
	stream, err := s.runtime.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.events[event.GetContainerId()] = append(s.events[event.GetContainerId()], event.GetContainerEventType().String())
			s.mu.Unlock()
		}
	}()
}

// world is both sides and the sequence of calls.
type world struct {
	t           *testing.T
	mode        string
	ours, stock *side
	rand        *rand.Rand
	pulled      []string // references of images
	ids         []string // of images, the same on both sides
	pods        []*pod
	containers  []*container
	made        int
	step        int
	calls       int
	differences int
	meant       int
	seen        map[string]int // entries of the table of what is meant
	methods     map[string]int // that were called
}

func newWorld(t *testing.T, mode string, refs []string, ours, stock *harness.Node) *world {
	t.Helper()
	w := &world{t: t, mode: mode, rand: rand.New(rand.NewPCG(uint64(*seed), 0)), seen: map[string]int{},
		methods: map[string]int{}}
	for at, n := range map[**side]*harness.Node{&w.ours: ours, &w.stock: stock} {
		*at = &side{node: n, runtime: n.Runtime(), images: n.Images(), events: map[string][]string{}}
		(*at).listen(t)
	}
	slices.Sort(refs)
	w.pulled = append([]string{ours.Image(harness.Busybox)}, refs...)
	for _, ref := range w.pulled {
		w.pull(ref)
	}
	w.methods["GetContainerEvents"]++
	return w
}

// call is one call of CRI on one side.
type call func(ctx context.Context, s *side) (proto.Message, error)

// both makes a call on both sides and compares the answers. Those of reads follow the events of containerd: they are
// asked again for a while.
func (w *world) both(op, what string, read bool, f call) (ours, stock proto.Message, ok bool) {
	w.t.Helper()
	method, _, _ := strings.Cut(op, " ")
	w.methods[method]++
	w.calls++
	var errs [2]error
	var answers [2]proto.Message
	var texts [2]string
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Second); ; <-tick.C {
		var wg sync.WaitGroup
		for i, s := range []*side{w.ours, w.stock} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(s.node.Context(), time.Minute)
				defer cancel()
				answers[i], errs[i] = f(ctx, s)
				texts[i] = s.normal(answers[i], errs[i])
			})
		}
		wg.Wait()
		if texts[0] == texts[1] || !read || time.Now().After(deadline) {
			break
		}
	}
	w.compare(op, what, texts[0], texts[1])
	return answers[0], answers[1], errs[0] == nil && errs[1] == nil
}

// compare says of two answers whether they are the same, or differ as meant.
func (w *world) compare(op, what, ours, stock string) {
	w.t.Helper()
	if ours == stock {
		return
	}
	if m := meantBy(w.mode, op, ours, stock); m != nil {
		w.meant++
		w.seen[m.name]++
		return
	}
	w.differences++
	w.t.Errorf("seed %d, step %d, %s, %s: %s", *seed, w.step, op, what, difference(ours, stock))
}

// compareEvents compares the events of every container and pod, in their order.
func (w *world) compareEvents() {
	of := func(s *side) map[string]string {
		s.mu.Lock()
		defer s.mu.Unlock()
		out := map[string]string{}
		for _, k := range s.known {
			// Of a container that is removed while it runs, containerd tells in one order or the other.
			out[k.handle] = strings.ReplaceAll(strings.Join(s.events[k.id], " "),
				"CONTAINER_DELETED_EVENT CONTAINER_STOPPED_EVENT", "CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT")
		}
		return out
	}
	var ours, stock map[string]string
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ours, stock = of(w.ours), of(w.stock); reflect.DeepEqual(ours, stock) {
			break
		}
	}
	for handle := range ours {
		w.compare("events", handle, ours[handle], stock[handle])
	}
}

// requireAllMethods fails the test unless every method of both services was called.
func (w *world) requireAllMethods() {
	for _, service := range []reflect.Type{reflect.TypeFor[runtime.RuntimeServiceServer](),
		reflect.TypeFor[runtime.ImageServiceServer]()} {
		for i := range service.NumMethod() {
			if m := service.Method(i); m.IsExported() && w.methods[m.Name] == 0 {
				w.t.Errorf("%s was never compared", m.Name)
			}
		}
	}
}

// handle is a new name.
func (w *world) handle(kind string) string {
	w.made++
	return fmt.Sprintf("%s-%d", kind, w.made)
}

// pick chooses one.
func pick[T any](w *world, from ...T) T { return from[w.rand.IntN(len(from))] }
