"""selective_scan_backend="core" """
# selective_scan_backend="core"
net = VSSM(dims=96, selective_scan_backend = "core", name="core")
kwargs = {"selective_scan_backend": 'core', 'note': 'it\'s "core"'}


def build(selective_scan_backend=r"core", *args):
    if selective_scan_backend == "core":
        return VSSM(selective_scan_backend="core" + suffix)
    return VSSM(selective_scan_backend=f"core", other_selective_scan_backend="core")
