"""Download: the observations of the regions of a catalog, from JSOC to the folders that `solared build` reads.

Dopplergrams are taken every 45 s; of magnetograms and continuum images only the one nearest the middle of each step's
window, as the pipeline uses no others. Frames that QUALITY marks as bad are not ordered.

As a rule JSOC cuts the images before it sends them: its process `im_patch` cuts a rectangle out of each image, without
interpolation, whose place follows a Carrington position; the keywords stay those of an image of the Sun, and our
tracking maps them as it maps whole images. The rectangle is so large that the patch stays within it while it drifts
against the Carrington rate. JSOC's `Maproj`, which makes maps, is of no use here: the centre of its maps is fixed in
Carrington coordinates, so one order cannot follow the region at the rate of `mtrack`, and tracking its maps would
interpolate twice.

Everything can be interrupted. A file that bears its final name is whole. The order that is being downloaded is kept in
`RAW/AR<number>/.jsoc/`, and the next run takes it up again as long as JSOC has it.

What is wrong with one file, order or region keeps no other from being downloaded: it is told at the end. Records that
hold no image, as in an eclipse, are kept in `RAW/AR<number>/without_image.json` and not asked for again.
"""

import json
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import drms
import numpy as np
from tqdm import tqdm

from dataset_builder.fits.region_file import RegionFile, read_region_file, write_region_file
from dataset_builder.fits.times import CADENCES
from dataset_builder.jsoc.failures import Failures, RegionFailed
from dataset_builder.jsoc.plan import (
    RegionPlan,
    frame_path,
    observed_regions,
    plan_regions,
    read_catalog,
    without_file,
)
from dataset_builder.jsoc.plan import cutout as cutout_process
from dataset_builder.jsoc.server import PUBLIC_SERVER, SERIES, ExportFailed, Jsoc, NotReady, chunks
from dataset_builder.jsoc.transfer import (
    DEFAULT_PATIENCE,
    Damaged,
    Gone,
    NoImage,
    Patience,
    Unreachable,
    check_frame,
    fetch,
    writing,
)
from dataset_builder.jsoc.without_image import FILE_NAME as WITHOUT_IMAGE_NAME
from dataset_builder.jsoc.without_image import add_frame_without_image, frames_without_image
from solared_hf.errors import SolaredError
from solared_hf.files import locked, write_atomically

NO_BAR = partial(tqdm, disable=True)

LOCK_NAME = ".download.lock"
# So many files in a row that are damaged whenever they come, at both ends of an order, or so many orders in a row that
# fail, mean that more of them will not help.
MOST_FAILED_IN_A_ROW = 3
# So many files or exports in a row that do not come in time mean that the server is gone, and each takes long.
MOST_LATE_IN_A_ROW = 2
ORDER_FOLDER, ORDER_NAME = ".jsoc", "order.json"


@dataclass(frozen=True)
class DownloadReport:
    """What a download did: `files` counts those it wrote, `undelivered` what JSOC left out of its exports.

    `without_image` counts the records that turned out to hold no image.
    """

    plans: tuple[RegionPlan, ...]
    files: int = 0
    undelivered: int = 0
    without_image: int = 0


def download_regions(
    catalog: Path | str,
    output: Path | str,
    *,
    email: str | None,
    ar_numbers: Sequence[int] = (),
    cadence: str = "1h",
    full_disk: bool = False,
    dry_run: bool = False,
    server: str = PUBLIC_SERVER,
    patience: Patience = DEFAULT_PATIENCE,
    say: Callable[[str], None] = print,
    progress: Callable[..., tqdm] = NO_BAR,
) -> DownloadReport:
    """Download the observations of the selected regions of a catalog, or what is missing of them.

    Args:
        catalog: file that `solared select` wrote.
        output: folder for the `AR<number>` folders, see `region_file`.
        email: address registered at JSOC; a dry run needs none.
        ar_numbers: only these of the selected regions; all if empty.
        cadence: of the steps, one of `CADENCES`: how often magnetograms and continuum images are taken.
        full_disk: take whole images instead of cutouts.
        dry_run: only say what there is to download.
        server: another server than Stanford's.
        patience: how long and how often to ask.
        say: takes the statement of what there is to download, line by line.
        progress: makes a bar, as `tqdm` does.

    Raises:
        SolaredError: the arguments do not fit, there are no observations of the regions, another download is writing
            `output`, the server does not do its part, or the disk is full. What is finished is kept. If `output` holds
            observations of another position of a region, or its exports fail, or files of it arrive damaged, then the
            message comes when all other regions are done, and has a line for each that failed.
    """
    if cadence not in CADENCES:
        raise SolaredError(f"Unknown cadence {cadence!r}; choose one of {', '.join(CADENCES)}.")
    if email is None and not dry_run:
        raise SolaredError("JSOC exports to registered e-mail addresses alone; name yours with --email.")
    jsoc, output = Jsoc(server, patience), Path(output)
    regions = read_catalog(Path(catalog), ar_numbers)
    failures = Failures(len(regions))
    regions = observed_regions(regions, say, failures)

    def plan() -> tuple[RegionPlan, ...]:
        here = _at_their_positions(output, regions, failures)
        if not here:
            failures.tell()
        return plan_regions(jsoc, here, output, CADENCES[cadence], full_disk, say, progress, failures)

    if dry_run:
        plans = plan()
        failures.tell()
        return DownloadReport(plans)
    busy = f"Another download is writing {output}, and JSOC asks for one at a time; wait until it has finished."
    with locked(output / LOCK_NAME, busy):
        jsoc.check_email(email)
        plans = plan()
        with progress(total=sum(plan.files_missing for plan in plans), unit="file", smoothing=0.05) as bar:
            downloads = [_RegionDownload(jsoc, plan, output, email, full_disk, bar) for plan in plans]
            late = 0
            for plan, download in zip(plans, downloads, strict=True):
                with failures.of(plan.region.ar_number):
                    if late == MOST_LATE_IN_A_ROW:
                        raise RegionFailed("Not begun, because JSOC did not finish the exports before it in time.")
                    try:
                        download.run()
                        late = 0
                    except NotReady:
                        late += 1
                        raise
    for plan, download in zip(plans, downloads, strict=True):
        if download.without_image:
            say(
                f"AR{plan.region.ar_number}: {len(download.without_image):,} records hold no image, the first is "
                f"{download.without_image[0]}; {WITHOUT_IMAGE_NAME} names them, and they are not asked for again"
            )
    failures.tell()
    return DownloadReport(
        plans,
        sum(one.written for one in downloads),
        sum(one.undelivered for one in downloads),
        sum(len(one.without_image) for one in downloads),
    )


def _at_their_positions(output: Path, regions: Sequence[RegionFile], failures: Failures) -> list[RegionFile]:
    """Those of some regions that can be gone on with.

    The cutouts of another position would lack part of the patch of this one.
    """
    here = []
    for region in regions:
        with failures.of(region.ar_number):
            folder = output / f"AR{region.ar_number}"
            try:
                old = read_region_file(folder)
            except SolaredError as error:
                raise RegionFailed(str(error)) from error
            if old is not None and old.trajectory != region.trajectory:
                raise RegionFailed(
                    f"{folder} holds observations of another position, {_position(old)}, while the catalog says "
                    f"{_position(region)}; move it away, or name another folder with --output (if it holds whole "
                    "images alone, it is enough to correct its region.json)."
                )
            here.append(region)
    return here


def _position(region: RegionFile) -> str:
    where = region.trajectory
    return f"Carrington longitude {where.carrington_longitude:g} and latitude {where.latitude:g} at {where.t0} TAI"


class _RegionDownload:
    """Brings what is missing of a region, order by order.

    Attributes:
        written: how many files it wrote.
        undelivered: how many frames JSOC left out.
        without_image: the records that hold no image, by observable and time.
    """

    def __init__(self, jsoc: Jsoc, plan: RegionPlan, output: Path, email: str, full_disk: bool, bar: tqdm):
        self._jsoc, self._plan, self._email, self._full_disk, self._bar = jsoc, plan, email, full_disk, bar
        self._output, self._number = output, plan.region.ar_number
        self._orders = output / f"AR{self._number}" / ORDER_FOLDER
        self.written = self.undelivered = 0
        self.without_image: list[str] = []
        self._damaged: list[str] = []
        self._unreachable_in_a_row = 0

    def run(self) -> None:
        """Download, beginning with the order of a run that was interrupted, if JSOC still has it.

        Raises:
            RegionFailed: orders failed or files did not arrive whole; everything else is there.
            SolaredError: the server or this machine do not do their part.
        """
        write_region_file(self._orders.parent, self._plan.region)
        self._take_up_order()
        orders = [
            (observable, chunk)
            for observable, slots in self._plan.missing.items()
            for chunk in chunks(self._without_file(observable, slots))
        ]
        reasons, in_a_row = [], 0
        for observable, chunk in orders:
            try:
                self._bring(observable, chunk)
            except NotReady:
                raise
            except RegionFailed as error:
                self._forget_order()
                reasons.append(str(error))
                in_a_row += 1
                if in_a_row == MOST_FAILED_IN_A_ROW:
                    break
            else:
                in_a_row = 0
        self._tell(reasons)

    def _tell(self, reasons: list[str]) -> None:
        if len(reasons) > 1:
            reasons[1:] = [f"{len(reasons) - 1} more of its orders failed."]
        if self._damaged:
            reasons.append(
                f"{len(self._damaged)} files arrived damaged {self._jsoc.patience.attempts} times each, or did not "
                f"arrive; run the same command again later. The first was {self._damaged[0]}."
            )
        if reasons:
            raise RegionFailed(" ".join(reasons))

    def _take_up_order(self) -> None:
        order = self._remembered_order()
        if order is not None:
            observable, largest = order["observable"], order["largest_arcsec"]
            try:
                request = self._jsoc.request_of(order["request"])
                self._receive(request, observable, self._plan.missing[observable], largest)
            except NotReady:
                raise
            except (ExportFailed, Gone, RegionFailed):
                pass  # what is still missing is ordered anew
        self._forget_order()

    def _bring(self, observable: str, slots: np.ndarray) -> None:
        """Order some frames and download them."""
        # JSOC may delete an export while it is downloaded; then the rest is ordered once more.
        try:
            self._order(observable, slots)
        except Gone:
            self._forget_order()
            self._order(observable, self._without_file(observable, slots), again=True)
        self._forget_order()

    def _order(self, observable: str, slots: np.ndarray, again: bool = False) -> None:
        process = None if self._full_disk else cutout_process(self._plan.region.trajectory, slots)
        # A server rounds to whole pixels.
        largest = 1.1 * max(process["im_patch"]["width"], process["im_patch"]["height"]) if process else None
        try:
            request = self._jsoc.request(observable, slots, self._email, process)
            order = {
                "server": self._jsoc.address,
                "request": request.id,
                "observable": observable,
                "full_disk": self._full_disk,
                "largest_arcsec": largest,
            }
            write_atomically(self._orders / ORDER_NAME, json.dumps(order, indent=1))
            delivered = self._receive(request, observable, slots, largest, again)
        except ExportFailed as error:
            way_out = "" if self._full_disk else ", or add --full-disk to download whole images"
            raise RegionFailed(
                f"{self._jsoc.address} could not export {slots.size:,} records of {SERIES[observable][0]}: {error}; "
                f"run the same command again later{way_out}."
            ) from error
        self.undelivered += slots.size - delivered

    def _receive(
        self,
        request: drms.ExportRequest,
        observable: str,
        slots: np.ndarray,
        largest_arcsec: float | None,
        again: bool = False,
    ) -> int:
        """Wait for an export and download its frames of some slots; how many it has.

        A file that is not there raises `Gone`, unless the frames were ordered `again`: then JSOC does not have it.
        """
        name = f"AR{self._number} {observable}"
        self._bar.set_description(f"{name}, JSOC prepares {request.id}")
        urls = self._jsoc.files(request)
        self._bar.set_description(name)
        queue = deque(slot for slot in slots.tolist() if slot in urls)
        delivered, damaged, in_a_row = len(queue), [], 0
        # From the other end on, once too many in a row are of no use: what is wrong there keeps nothing else back.
        take = queue.popleft
        while queue:
            slot = take()
            try:
                self._fetch(urls[slot], observable, slot, largest_arcsec)
            except NoImage as error:
                add_frame_without_image(self._output, self._number, observable, slot)
                self.without_image.append(f"{observable} {error}")
                continue
            except Unreachable as error:
                self._unreachable_in_a_row += 1
                if self._unreachable_in_a_row == MOST_LATE_IN_A_ROW:
                    raise
                damaged.append(f"{urls[slot]}: {error.__cause__}")
                continue
            except Gone:
                if not again:
                    raise
                delivered -= 1
                trouble = f"{urls[slot]} was just exported and is not there; try again later."
            except Damaged as error:
                damaged.append(f"{urls[slot]}: {error}")
                trouble = (
                    f"{MOST_FAILED_IN_A_ROW} files in a row arrived damaged {self._jsoc.patience.attempts} times "
                    f"each, at both ends of an order, the last was {damaged[-1]}; run the same command again later."
                )
            else:
                self.written += 1
                self._bar.update()
                in_a_row = self._unreachable_in_a_row = 0
                continue
            in_a_row += 1
            if in_a_row == MOST_FAILED_IN_A_ROW:
                if take == queue.pop:
                    raise RegionFailed(trouble)
                take, in_a_row = queue.pop, 0
        self._damaged += damaged
        return delivered

    def _fetch(self, url: str, observable: str, slot: int, largest_arcsec: float | None) -> None:
        path = frame_path(self._output, self._number, observable, slot)
        check = partial(check_frame, slot=slot, largest_arcsec=largest_arcsec)
        fetch(url, path, self._orders / f"{path.name}.part", check, self._jsoc.patience)

    def _without_file(self, observable: str, slots: np.ndarray) -> np.ndarray:
        missing = without_file(self._output, self._number, observable, slots)
        return np.setdiff1d(missing, frames_without_image(self._output, self._number, observable))

    def _remembered_order(self) -> dict | None:
        """The order of an earlier run, if it was one like ours; one that cannot be read is none."""
        try:
            order = json.loads((self._orders / ORDER_NAME).read_bytes())
            ours = order["server"] == self._jsoc.address and order["full_disk"] == self._full_disk
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return order if ours and order["request"] and order["observable"] in SERIES else None

    def _forget_order(self) -> None:
        """The parts of files that lie with it are of use to no other order."""
        with writing(self._orders):
            if self._orders.exists():
                shutil.rmtree(self._orders)
