package checkpoint

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fourthFormat is that of a producer that there is not yet: all that it needs is here.
type fourthFormat struct{ podmanFormat }

func (fourthFormat) engine() Engine          { return "Fourth" }
func (fourthFormat) took(s *specs.Spec) bool { return s.Annotations[managerAnnotation] == "fourth" }
func (fourthFormat) log() string             { return "fourth.log" }
func (fourthFormat) annotations() Annotations {
	return Annotations{Prefix: "example.fourth.", Deciding: []string{"x"}}
}

func TestFourthProducer(t *testing.T) {
	before := formats
	t.Cleanup(func() { formats = before })
	register(fourthFormat{})
	f := podmanFiles().with("spec.dump",
		`{`+linuxSpec+`,"annotations":{"io.container.manager":"fourth"}}`).with("fourth.log", "count 1\n")
	c := open(t, f.tree(t))
	if c.Metadata.Engine != "Fourth" {
		t.Errorf("engine %s", c.Metadata.Engine)
	}
	log, err := c.OpenLog()
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	if !slices.ContainsFunc(ImageAnnotations(), func(a Annotations) bool { return a.Prefix == "example.fourth." }) {
		t.Error("its images are not recognised")
	}
	// The others are what they were.
	for _, files := range []files{podmanFiles(), crioFiles(), containerdFiles()} {
		if got := open(t, files.tree(t)).Metadata.Engine; got == "Fourth" {
			t.Errorf("taken for another's: %s", got)
		}
	}
}
