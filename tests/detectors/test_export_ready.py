"""Every detector is one graph with a free batch and canvas: what ``ssod export`` builds on."""

import pytest
import torch
from torch import Tensor, nn

from ssod.structures import View
from tests.detectors.reference import images, view
from tests.detectors.test_detectors import lively


class Graph(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pictures: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.detector.predict(View(pictures, sizes, torch.eye(3), sizes[:, 0])).detect()
        return found.boxes, found.scores, found.labels


@pytest.mark.parametrize("name", ["retinanet", "dense_detector"])  # tests/test_export.py has all, in files
def test_one_graph_for_any_batch_and_canvas(name: str) -> None:
    graph = Graph(lively(name))
    n, h, w = torch.export.Dim("n", min=1, max=16), *(torch.export.Dim(d, min=5, max=42) for d in "hw")
    shapes = {"pictures": {0: n, 2: 32 * h, 3: 32 * w}, "sizes": {0: n}}
    example = view(images(((160, 192), (150, 170))))
    with torch.no_grad():
        exported = torch.export.export(graph, (example.images, example.sizes), dynamic_shapes=shapes).module()
        for sizes in (((192, 160), (150, 100), (64, 64)), ((170, 256),)):
            v = view(images(sizes))
            expected, got = graph(v.images, v.sizes), exported(v.images, v.sizes)
            assert (expected[1] > 0).any()
            for a, b in zip(expected, got):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
