"""The networks, one file each. A new one is a file that defines its `Architecture`, and a line here."""

from __future__ import annotations

from sr_deploy.core.registry import Registry

ARCHITECTURES = Registry(
    "architecture",
    {
        "asrn": "sr_deploy.nets.asrn:ASRN_ARCHITECTURE",
        "imdeception": "sr_deploy.nets.imdeception:IMDECEPTION_ARCHITECTURE",
        "srn": "sr_deploy.nets.srn:SRN_ARCHITECTURE",
        "srn-s": "sr_deploy.nets.srn:SRN_S_ARCHITECTURE",
        "edsr": "sr_deploy.nets.edsr:EDSR_ARCHITECTURE",
    },
)
