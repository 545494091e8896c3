"""cpuattn behind the interfaces of other projects; each module says which one."""
