"""The two models that this project began with, in plain torch, one case at a time, as their groups describe them."""

import torch
from torch import nn


class TanhAttention(nn.Module):
    "Attention by tanh alone: the weighted mean of the rows, and the weights."

    def __init__(self, features: int, hidden: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, rows):  # (n, features) -> (features,), (n,)
        weights = torch.softmax(self.net(rows)[:, 0], 0)
        return weights @ rows, weights


class StainsModel(nn.Module):
    "Patches to sections to stains to a case: pooled DenseNet features, a projection, attention at three levels."

    def __init__(self, in_features: int = 4096, hidden: int = 512, attention: int = 128, n_classes: int = 2):
        super().__init__()
        self.feature_projector = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(0.3))
        self.patch_attention = TanhAttention(hidden, attention, dropout=0.3)
        self.slice_attention = TanhAttention(hidden, attention, dropout=0.3)
        self.stain_attention = TanhAttention(hidden, attention, dropout=0.3)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(hidden, n_classes)

    def forward(self, case):  # stain -> list of sections (patches, in_features)
        stains, weights = [], {"section": [], "stain": [], "case": []}
        for sections in case.values():
            pooled = []
            for patches in sections:
                section, of_patches = self.patch_attention(self.feature_projector(patches))
                pooled.append(section)
                weights["section"].append(of_patches)
            stain, of_sections = self.slice_attention(torch.stack(pooled))
            stains.append(stain)
            weights["stain"].append(of_sections)
        whole, of_stains = self.stain_attention(torch.stack(stains))
        weights["case"].append(of_stains)
        return self.classifier(self.dropout(whole)), {level: torch.cat(parts) for level, parts in weights.items()}


STAINS_NAMES = """theirs,ours
feature_projector.0.*,embedding.linear.*
patch_attention.net.0.*,attention.section.project.*
patch_attention.net.3.*,attention.section.score.0.*
slice_attention.net.0.*,attention.stain.project.*
slice_attention.net.3.*,attention.stain.score.0.*
stain_attention.net.0.*,attention.case.project.*
stain_attention.net.3.*,attention.case.score.0.*
classifier.*,classifier.0.*
"""


class SlicesModel(nn.Module):
    "A soft choice of the critical slice by a scorer with a sigmoid, and gated attention beside it."

    def __init__(self, features: int = 512, hidden: int = 128, head: int = 256, n_classes: int = 2):
        super().__init__()
        self.instance_classifier = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 1), nn.Sigmoid()
        )
        self.attention_V = nn.Sequential(nn.Linear(features, hidden), nn.Tanh())
        self.attention_U = nn.Sequential(nn.Linear(features, hidden), nn.Sigmoid())
        self.attention_w = nn.Linear(hidden, 1)
        self.head = nn.Sequential(nn.Linear(2 * features, head), nn.ReLU(), nn.Dropout(0.5), nn.Linear(head, n_classes))

    def forward(self, slices, temperature: float):  # (n, features)
        scores = self.instance_classifier(slices)[:, 0]
        selection = torch.softmax(scores / temperature, 0)
        attention = torch.softmax(self.attention_w(self.attention_V(slices) * self.attention_U(slices))[:, 0], 0)
        return self.head(torch.cat([selection @ slices, attention @ slices])), selection, attention


SLICES_NAMES = """theirs,ours
instance_classifier.0.*,selector.scorer.0.*
instance_classifier.3.*,selector.scorer.3.*
attention_V.0.weight + attention_U.0.weight,attention.project.weight
attention_V.0.bias + attention_U.0.bias,attention.project.bias
attention_w.*,attention.score.0.*
head.0.*,classifier.0.*
head.3.*,classifier.3.*
"""
