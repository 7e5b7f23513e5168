"""The networks, one file each. To add one, define its `Architecture` in a file and list it here."""

from __future__ import annotations

from sr_deploy.core.registry import Registry

ARCHITECTURES = Registry(
    "architecture",
    {
        "asrn": "sr_deploy.nets.asrn:ASRN_ARCHITECTURE",
        "imdeception": "sr_deploy.nets.imdeception:IMDECEPTION_ARCHITECTURE",
        "srn": "sr_deploy.nets.srn:SRN_ARCHITECTURE",
        "srn-s": "sr_deploy.nets.srn:SRN_S_ARCHITECTURE",
        "rlfn": "sr_deploy.nets.rlfn:RLFN_ARCHITECTURE",
        "efdn": "sr_deploy.nets.efdn:EFDN_ARCHITECTURE",
        "span": "sr_deploy.nets.span:SPAN_ARCHITECTURE",
        "spanv2": "sr_deploy.nets.spanv2:SPANV2_ARCHITECTURE",
        "dscf": "sr_deploy.nets.dscf:DSCF_ARCHITECTURE",
        "edsr": "sr_deploy.nets.edsr:EDSR_ARCHITECTURE",
        "fsrcnn": "sr_deploy.nets.fsrcnn:FSRCNN_ARCHITECTURE",
        "carn-m": "sr_deploy.nets.carn:CARN_ARCHITECTURE",
        "msrresnet": "sr_deploy.nets.msrresnet:MSRRESNET_ARCHITECTURE",
        "rcan": "sr_deploy.nets.rcan:RCAN_ARCHITECTURE",
        "edsr-original": "sr_deploy.nets.edsr:EDSR_ORIGINAL_ARCHITECTURE",
        "adaedsr": "sr_deploy.nets.adaedsr:ADAEDSR_ARCHITECTURE",
        "adarcan": "sr_deploy.nets.adarcan:ADARCAN_ARCHITECTURE",
    },
)
"""Networks that can be built without weights, trained and sliced."""

FROM_WEIGHTS = Registry(
    "architecture", {"spandrel": "sr_deploy.nets.spandrel:SPANDREL_ARCHITECTURE"}
)
"""Architectures of checkpoints whose networks other packages make from the weights."""
