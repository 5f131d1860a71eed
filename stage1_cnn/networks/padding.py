"""Kernel positions that only ever see padding: their gradient is zero, which bf16 does not keep."""

import torch
from torch import nn
from torch.nn.functional import conv2d

from stage1_cnn.networks.backbones import Network


def zero_gradient_in_padding(network: Network, size: tuple[int, int]) -> None:
    """Sets to zero, after each backward pass, the gradient of kernel positions that see only
    padding where images have `size` (height, width), as a 3 x 3 kernel's border on a map of one
    pixel.

    oneDNN 3.13 (in PyTorch 2.15) leaves these positions unwritten in bf16 on a processor, on maps
    of one pixel in width with stride 2, and with kernels of 5 and more on maps of one or two pixels
    in height: the step then takes what lay in memory, and a training ends at a loss of nan.
    """
    by_convolution: dict[nn.Conv2d, torch.Tensor] = {}
    for convolution, (height, width) in _input_sizes(network, size):
        positions = seen(convolution, height, width)
        by_convolution[convolution] = by_convolution.get(convolution, positions) | positions
    for convolution, positions in by_convolution.items():
        if not positions.all():
            unseen = ~positions.to(convolution.weight.device)
            convolution.weight.register_hook(lambda gradient, u=unseen: gradient.masked_fill(u, 0))


def seen(convolution: nn.Conv2d, height: int, width: int) -> torch.Tensor:
    """The kernel's positions that see a pixel of an input of this size, bool [kernel height, kernel
    width]."""
    kernel = torch.ones(1, 1, *convolution.kernel_size, requires_grad=True)
    if convolution.padding_mode != "zeros":  # its padding is made of pixels
        return kernel[0, 0] > 0
    pixels, padding = torch.ones(1, 1, height, width), convolution.padding
    count = conv2d(pixels, kernel, None, convolution.stride, padding, convolution.dilation).sum()
    (gradient,) = torch.autograd.grad(count, kernel)
    return gradient[0, 0] > 0


def _input_sizes(
    network: Network, size: tuple[int, int]
) -> list[tuple[nn.Conv2d, tuple[int, int]]]:
    """Each convolution that a forward pass of one image meets, with its input's height and width;
    not those with a forward pass of their own, as TensorFlow's, which hand over an input that is
    padded already."""
    met: list[tuple[nn.Conv2d, tuple[int, int]]] = []

    def note(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        met.append((module, (inputs[0].shape[-2], inputs[0].shape[-1])))

    hooks = [
        module.register_forward_pre_hook(note)
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
    ]
    training = network.training
    network.eval()
    with torch.inference_mode():
        network(torch.zeros(1, 3, *size, device=network.head.weight.device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return met
