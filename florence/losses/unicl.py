"""UniCL: contrastive learning in which all pairs with one label are positives of each other.

With s_ij = τ u_iᵀv_j over the global batch and P(i) the samples that carry the label of i::

    L = Σ_i ( LSE_j s_ij - mean_{k in P(i)} s_ik ) + Σ_j ( LSE_i s_ij - mean_{k in P(j)} s_kj )

(Yuan et al. 2021, eq. 1-3; Yang et al. 2022.) Distinct labels make it CLIP's loss.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from florence.config import Reduction
from florence.distributed.gather import all_gather_rows, gather_rows


def unicl_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor,
    labels: Tensor,
    *,
    all_labels: Tensor | None = None,
    reduction: Reduction = Reduction.MEAN,
    row_chunk: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """This rank's part of the loss over the global batch, a scalar (fp32; fp64 for fp64 features).

    Each rank evaluates its own rows of both directions against the features of all ranks. The mean
    of the returned values over ranks is the global loss, and the mean over ranks of the parameters'
    gradients (what DDP computes) is its gradient.

    Args:
        u: L2-normalised image features (b, D) of this rank; b is the same on every rank.
        v: L2-normalised text features (b, D).
        logit_scale: ln τ, one element.
        labels: int64 (b,); equal labels, on any rank, are positives.
        all_labels: the labels of all ranks by rank, where they are known; else gathered.
        reduction: MEAN is L / 2B (UniCL's own), SUM is the paper's L.
        row_chunk: rows of the logits held at once, recomputed in the backward pass; 0 holds all.
        group: the processes of the global batch; None is all of them.
    """
    with torch.autocast(u.device.type, enabled=False):
        u, v, logit_scale = _at_least_fp32(u), _at_least_fp32(v), _at_least_fp32(logit_scale)
        rows, width = u.shape
        all_u, all_v = torch.split(gather_rows(torch.cat([u, v], dim=1), group), width, dim=1)
        if all_labels is None:
            all_labels = all_gather_rows(labels, group)
        scale = logit_scale.reshape(()).exp()

        own, groups, counts = _groups(labels, all_labels)
        total: Tensor = (
            _direction(u, all_v, scale, row_chunk)
            + _direction(v, all_u, scale, row_chunk)
            - scale * (u * _group_means(all_v, groups, counts)[own]).sum()
            - scale * (v * _group_means(all_u, groups, counts)[own]).sum()
        )
        if reduction is Reduction.SUM:
            return total * (all_u.shape[0] / rows)
        return total / (2 * rows)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _groups(labels: Tensor, all_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group index of the own rows (b,) and of all rows (N,), and the size of each group (G,)."""
    values, groups, counts = torch.unique(all_labels, return_inverse=True, return_counts=True)
    return torch.searchsorted(values, labels), groups, counts


def _group_means(features: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """Mean feature of every label (G, D).

    The mean of s over P(i) is τ u_iᵀ (mean of v over P(i)): no N x N mask of positives is needed.
    """
    sums = features.new_zeros(counts.shape[0], features.shape[1]).index_add(0, groups, features)
    return sums / counts.unsqueeze(1)


def _direction(rows: Tensor, columns: Tensor, scale: Tensor, row_chunk: int) -> Tensor:
    """Σ_i LSE_j τ rows_iᵀcolumns_j, a scalar, holding ``row_chunk`` rows of the logits at once."""
    if row_chunk <= 0 or row_chunk >= rows.shape[0]:
        return _sum_of_log_sum_exp(rows, columns, scale)
    sums = [
        checkpoint(
            _sum_of_log_sum_exp,
            part,
            columns,
            scale,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in it is random
        )
        for part in torch.split(rows, row_chunk)
    ]
    return torch.stack(sums).sum()


def _sum_of_log_sum_exp(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    # Scaling the (b, D) rows instead of the (b, N) logits saves a pass over the large matrix.
    return ((rows * scale) @ columns.T).logsumexp(dim=1).sum()
