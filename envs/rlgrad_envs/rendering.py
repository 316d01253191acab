"""Pictures of episodes: a window for a person."""

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from jaxtyping import UInt8


class Window:
    """A window of pygame that shows one picture after the other.

    Args:
        fps: how many a second it waits to show at most.

    Raises:
        DependencyNotInstalled: there is no pygame.
    """

    def __init__(self, fps: int) -> None:
        self.pygame = _pygame()
        self.fps = fps
        self.screen: Any = None
        self.clock = self.pygame.time.Clock()

    def show(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Show a picture; the first says how large the window is."""
        if self.screen is None:
            self.pygame.display.init()
            self.screen = self.pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            self.pygame.display.set_caption("rlgrad")
        self.screen.blit(self.pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        self.pygame.event.pump()
        self.clock.tick(self.fps)
        self.pygame.display.flip()

    def close(self) -> None:
        """Close it."""
        self.pygame.display.quit()
        self.screen = None


def _pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled(
            'needed pygame for render_mode="human", got none; pip install "rlgrad[envs]"'
        ) from error
    return pygame
