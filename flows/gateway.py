"""Which gateway a run asks: that of the settings, or a sandbox gateway of its own for as long as it runs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from connectors.ibkr.session import GatewayAddress, port_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flows.settings import Settings


def address_of(settings: Settings) -> GatewayAddress:
    """The gateway that the settings name.

    Raises:
        InvalidRequest: its host, its port or the client id cannot be.
    """
    return GatewayAddress(
        host=settings.ib_host,
        port=port_for(
            port=settings.ib_port,
            paper=settings.ib_paper_trading,
            use_tws=settings.ib_use_tws,
            live=settings.ib_live_port,
            paper_tws=settings.ib_paper_port,
            gateway_live=settings.ib_gateway_live_port,
            gateway_paper=settings.ib_gateway_paper_port,
        ),
        client_id=settings.ib_client_id,
        connect_timeout_s=settings.connection_timeout,
    )


@asynccontextmanager
async def gateway_of(settings: Settings, *, sandbox: bool, **options: Any) -> AsyncIterator[GatewayAddress]:
    """The gateway to ask; a sandbox lives as long as the block.

    Args:
        settings: the environment.
        sandbox: start a sandbox gateway instead of asking that of the settings.
        **options: of the sandbox gateway.

    Raises:
        InvalidRequest: as `address_of`.
        SandboxDidNotStartError: the sandbox gateway does not start.
    """
    address = address_of(settings)
    if not sandbox:
        yield address
        return
    from connectors.sandbox.ib_gateway_process import IbGatewayProcess  # noqa: PLC0415 - only when asked for

    gateway = IbGatewayProcess(**options)
    await asyncio.to_thread(gateway.__enter__)
    try:
        yield replace(address, host=gateway.host, port=gateway.port)
    finally:
        await asyncio.to_thread(gateway.stop)


def producer(*, sandbox: bool) -> str:
    """Name and version of the writer; what the sandbox invented says so."""
    return f"trading-data {version('trading-data')}{' (sandbox)' if sandbox else ''}"
