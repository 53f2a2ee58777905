"""Reduction methods: one frozen dataclass per file, and the registry of their names."""

from sttm.methods.base import DecodePruning, Method, Signal, TokenPruner, VideoFeatures
from sttm.methods.dycoke import DyCoke
from sttm.methods.dycoke1 import DyCokeStage1
from sttm.methods.evs import EVS
from sttm.methods.fastv import FastV
from sttm.methods.fastvid import FastVID
from sttm.methods.framefusion import FrameFusion
from sttm.methods.holitom import HoliTom
from sttm.methods.identity import Identity
from sttm.methods.octree import OctreeMerge
from sttm.methods.prunevid import PruneVidMerge
from sttm.methods.random import RandomTokens
from sttm.methods.registry import MethodInfo, get_method, list_methods, register
from sttm.methods.simplecluster import SimpleCluster
from sttm.methods.single import SingleGranularity
from sttm.methods.sttm import STTM
from sttm.methods.tome import ToMe
from sttm.methods.uniform import UniformFrames
from sttm.methods.vidcom2 import VidCom2
from sttm.methods.visionzip import VisionZip

__all__ = [
    "EVS",
    "STTM",
    "DecodePruning",
    "DyCoke",
    "DyCokeStage1",
    "FastV",
    "FastVID",
    "FrameFusion",
    "HoliTom",
    "Identity",
    "Method",
    "MethodInfo",
    "OctreeMerge",
    "PruneVidMerge",
    "RandomTokens",
    "Signal",
    "SimpleCluster",
    "SingleGranularity",
    "ToMe",
    "TokenPruner",
    "UniformFrames",
    "VidCom2",
    "VideoFeatures",
    "VisionZip",
    "get_method",
    "list_methods",
    "register",
]
