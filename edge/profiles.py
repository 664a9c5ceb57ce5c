"""Devices that can be emulated. This table alone knows them by name."""

from pydantic import Field

from splitleak.config import Config
from splitleak.tables import Table


class DeviceProfile(Config):
    """A device relative to this machine; every figure is an assumption, explained in ``basis``."""

    name: str = Field(min_length=1)
    factor: float = Field(ge=1, description="how many times as long one of its cores takes as one of this machine")
    threads: int = Field(ge=1, description="most compute threads")
    basis: str = Field(min_length=1, description="source of threads and factor")

    @property
    def about(self) -> str:
        """The profile in a line."""
        return f"a core of it takes {self.factor:g} times as long as one here; {self.threads} compute"


_SERVER = "this machine's core is assumed to reach 1500 points of Geekbench 6, as server cores of 2021 do"
DEVICES: Table[DeviceProfile] = Table(
    "device",
    {
        profile.name: profile
        for profile in (
            DeviceProfile(
                name="raspberry-pi-4",
                factor=5,
                threads=4,
                basis=f"4 Cortex-A72 at 1.8 GHz (Raspberry Pi Ltd); about 300 points a core, our assumption; {_SERVER}",
            ),
            DeviceProfile(
                name="raspberry-pi-5",
                factor=2.2,
                threads=4,
                basis="4 Cortex-A76 at 2.4 GHz (Raspberry Pi Ltd); 2.3 times a Raspberry Pi 4 by sysbench (zbotic.in)",
            ),
            DeviceProfile(
                name="phone",
                factor=1.5,
                threads=2,
                basis=f"a middle-class phone of 2023, 900 to 1050 points a core (reviews), two big cores; {_SERVER}",
            ),
        )
    },
)
