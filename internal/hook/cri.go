package hook

import (
	"fmt"
	"reflect"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	// Registers io.containerd.grpc.v1.cri, which CRI wraps.
	_ "github.com/containerd/containerd/v2/plugins/cri"
)

// CRIServices are the two services that containerd's CRI plugin serves.
type CRIServices struct {
	Runtime runtime.RuntimeServiceServer
	Images  runtime.ImageServiceServer
}

// CRI wraps containerd's CRI plugin (containerd: plugins/cri/cri.go). decorate
// gets the plugin's services and returns those that are served instead. They
// are called inside containerd's instrumentation: the namespace is in the
// context, readiness was checked, and errors are turned into gRPC codes later.
//
// Where wanted says no, the instance is left as it is and not even looked at.
func CRI(wanted func(*plugin.InitContext) bool, decorate func(*plugin.InitContext, CRIServices) (CRIServices,
	error)) error {
	return Wrap(plugins.GRPCPlugin, "cri", func(ic *plugin.InitContext, instance any) (any, error) {
		if !wanted(ic) {
			return instance, nil
		}
		return replace(instance, func(inner CRIServices) (CRIServices, error) { return decorate(ic, inner) })
	})
}

// replace puts the decorated services into the instance.
func replace(instance any, decorate func(CRIServices) (CRIServices, error)) (any, error) {
	fields, err := servicesOf(instance)
	if err != nil {
		return nil, err
	}
	outer, err := decorate(CRIServices{
		Runtime: fields.runtime.Interface().(runtime.RuntimeServiceServer),
		Images:  fields.images.Interface().(runtime.ImageServiceServer),
	})
	if err != nil {
		return nil, err
	}
	fields.runtime.Set(reflect.ValueOf(&outer.Runtime).Elem())
	fields.images.Set(reflect.ValueOf(&outer.Images).Elem())
	return instance, nil
}

// criFields are the two settable fields of the CRI plugin's instance.
type criFields struct {
	runtime, images reflect.Value
}

// servicesOf finds the embedded, exported interface fields in the instance,
// which is a struct pointer, or a struct that embeds it (with the TCP service).
func servicesOf(instance any) (criFields, error) {
	v := reflect.ValueOf(instance)
	if v.IsValid() && v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() != reflect.Struct {
		return criFields{}, shapeError(instance, "it is no struct")
	}
	f := criFields{runtime: field(v, "RuntimeServiceServer"), images: field(v, "ImageServiceServer")}
	for name, check := range map[string]struct {
		field reflect.Value
		want  reflect.Type
	}{
		"RuntimeServiceServer": {f.runtime, reflect.TypeFor[runtime.RuntimeServiceServer]()},
		"ImageServiceServer":   {f.images, reflect.TypeFor[runtime.ImageServiceServer]()},
	} {
		switch {
		case !check.field.IsValid():
			return criFields{}, shapeError(instance, "it has no field "+name)
		case check.field.Type() != check.want:
			return criFields{}, shapeError(instance, fmt.Sprintf("its field %s is a %s", name, check.field.Type()))
		case !check.field.CanSet():
			return criFields{}, shapeError(instance, fmt.Sprintf("its field %s cannot be set", name))
		case check.field.IsNil():
			return criFields{}, shapeError(instance, fmt.Sprintf("its field %s is nil", name))
		}
	}
	return f, nil
}

// field returns the named field, embedded or not, or the zero Value.
func field(v reflect.Value, name string) reflect.Value {
	f, ok := v.Type().FieldByName(name)
	if !ok {
		return reflect.Value{}
	}
	// The error is that an embedded pointer on the way is nil.
	out, err := v.FieldByIndexErr(f.Index)
	if err != nil {
		return reflect.Value{}
	}
	return out
}

func shapeError(instance any, why string) error {
	return fmt.Errorf("the CRI plugin of containerd %s cannot be decorated: %T: %s; "+
		"use a cri-restore that was made for this version, or disable io.containerd.cri.v1.restore by disabled_plugins: %w",
		version.Version, instance, why, errdefs.ErrNotImplemented)
}
