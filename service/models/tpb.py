"""TPB, the Task-Prompt Branch: image features -> prompt tokens F^p (paper section 3.3, eq. 1)."""

from torch import Tensor, nn


class TPB(nn.Module):
    """Three linear layers; LayerNorm and LeakyReLU follow all but the last.

    in_features is the width of the image encoder, out_features that of the UNet's cross-attention.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, in_features),
            nn.LayerNorm(in_features),
            nn.LeakyReLU(),
            nn.Linear(in_features, in_features),
            nn.LayerNorm(in_features),
            nn.LeakyReLU(),
            nn.Linear(in_features, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """features (B, N, in_features) -> tokens F^p (B, N, out_features)."""
        tokens: Tensor = self.layers(features)
        return tokens
