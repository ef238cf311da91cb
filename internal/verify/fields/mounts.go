package fields

// mounts are the mounts of the container.
var mounts = []Message{
	{"mnt_entry", []Row{
		judged("mnt_id mountpoint", "newMountTree"),
		judged("parent_mnt_id", "newMountTree settle"),
		forced("fstype root source options flags sb_flags", "force set"),
		forced("fsname with_plugin ext_mount internal_sharing ext_key deleted", "force match"),
		forced("shared_id master_id", "share"),
		because(forced("root_dev", "number"), "that of a tmpfs stays, by which its archive is found: see tmpfs"),
	}},
}
