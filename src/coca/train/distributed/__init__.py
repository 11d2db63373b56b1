"""Distributed training: process group, collectives of the host, and DDP or FSDP2."""
