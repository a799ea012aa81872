"""Download the observations of the regions of a catalog from JSOC into the folders that `solared build` reads.

Dopplergrams are downloaded every 45 s. Of magnetograms and continuum images, only the frame nearest to the middle of
the window of each step is downloaded, because the pipeline does not use others. Frames that QUALITY marks as bad are
not ordered.

By default JSOC cuts the images before it sends them: its process `im_patch` cuts a rectangle out of each image,
without interpolation, that follows a Carrington position. The keywords stay those of an image of the Sun, so our
tracking maps cutouts like whole images. The rectangle is large enough to hold the patch while it drifts against the
Carrington rate. JSOC's process `Maproj` is not used: the centre of its maps is fixed in Carrington coordinates, so one
order cannot follow the region at the rate of `mtrack`, and tracking its maps would interpolate twice.

Every download can be interrupted. A file with its final name is complete. The current order is stored in
`RAW/AR<number>/.jsoc/`, and the next run resumes it while JSOC still has it.

An error of one file, order or region does not stop the others; all errors are reported at the end. Records without an
image, as during an eclipse, are listed in `RAW/AR<number>/without_image.json` and are not ordered again.
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
    largest_side,
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
# Stop an order after this many damaged files in a row at both of its ends, and a region after this many failed orders.
MOST_FAILED_IN_A_ROW = 3
# Stop after this many files or exports in a row that do not arrive in time, because each of them takes long.
MOST_LATE_IN_A_ROW = 2
ORDER_FOLDER, ORDER_NAME = ".jsoc", "order.json"


@dataclass(frozen=True)
class DownloadReport:
    """Result of a download.

    Args:
        plans: the plan of each region.
        files: number of files that were written.
        undelivered: number of frames that JSOC left out of its exports.
        without_image: number of records that lack an image.
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
    """Download the missing observations of the selected regions of a catalog.

    Args:
        catalog: file that `solared select` wrote.
        output: folder for the `AR<number>` folders, see `region_file`.
        email: address registered at JSOC; may be None for a dry run.
        ar_numbers: download only these of the selected regions; all if empty.
        cadence: cadence of the steps, one of `CADENCES`, which is also that of magnetograms and continuum images.
        full_disk: download whole images instead of cutouts.
        dry_run: only report what would be downloaded.
        server: address of the server.
        patience: how long to wait and how often to try.
        say: called with each line of the report of what will be downloaded.
        progress: makes a progress bar, like `tqdm`.

    Raises:
        SolaredError: If the arguments are wrong, there are no observations of the regions, another download is writing
            `output`, the server fails, or the disk is full. Finished files are kept. If only single regions fail,
            the error is raised when all other regions are done, and has a line for each failed region.
    """
    if cadence not in CADENCES:
        raise SolaredError(f"Unknown cadence {cadence!r}. Choose one of {', '.join(CADENCES)}.")
    if email is None and not dry_run:
        raise SolaredError("JSOC exports only to registered e-mail addresses. Name yours with --email.")
    jsoc, output = Jsoc(server, patience), Path(output)
    regions = read_catalog(Path(catalog), ar_numbers)
    failures = Failures(len(regions))
    regions = observed_regions(regions, say, failures)

    def make_plans() -> tuple[RegionPlan, ...]:
        here = _at_their_positions(output, regions, failures)
        if not here:
            failures.tell()
        return plan_regions(jsoc, here, output, CADENCES[cadence], full_disk, say, progress, failures)

    if dry_run:
        plans = make_plans()
        failures.tell()
        return DownloadReport(plans)
    assert email is not None  # checked above
    busy = f"Another download is writing {output}, and JSOC asks for one at a time. Wait until it has finished."
    with locked(output / LOCK_NAME, busy):
        jsoc.check_email(email)
        plans = make_plans()
        with progress(total=sum(plan.files_missing for plan in plans), unit="file", smoothing=0.05) as bar:
            downloads = [_RegionDownload(jsoc, plan, output, email, full_disk, bar) for plan in plans]
            late = 0
            for plan, download in zip(plans, downloads, strict=True):
                with failures.of(plan.region.ar_number):
                    if late == MOST_LATE_IN_A_ROW:
                        raise RegionFailed("Not started, because JSOC did not finish the previous exports in time.")
                    try:
                        download.run()
                        late = 0
                    except NotReady:
                        late += 1
                        raise
    for plan, download in zip(plans, downloads, strict=True):
        if download.without_image:
            say(
                f"AR{plan.region.ar_number}: {len(download.without_image):,} records lack an image, the first is "
                f"{download.without_image[0]}; they are listed in {WITHOUT_IMAGE_NAME} and not ordered again"
            )
    failures.tell()
    return DownloadReport(
        plans,
        sum(download.written for download in downloads),
        sum(download.undelivered for download in downloads),
        sum(len(download.without_image) for download in downloads),
    )


def _at_their_positions(output: Path, regions: Sequence[RegionFile], failures: Failures) -> list[RegionFile]:
    """Return the regions whose folder is new or holds observations of the same position.

    The cutouts of another position would lack a part of the patch.
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
                    f"{folder} holds observations of another position, {_position(old)}, but the catalog says "
                    f"{_position(region)}. Move it away, or name another folder with --output (if it holds only whole "
                    "images, it is enough to correct its region.json)."
                )
            here.append(region)
    return here


def _position(region: RegionFile) -> str:
    where = region.trajectory
    return f"Carrington longitude {where.carrington_longitude:g} and latitude {where.latitude:g} at {where.t0} TAI"


class _RegionDownload:
    """Downloads the missing files of a region, order by order.

    Attributes:
        written: number of files that were written.
        undelivered: number of frames that JSOC left out.
        without_image: observable and time of each record without an image.
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
        """Download the missing files, and first resume the order of an interrupted run if JSOC still has it.

        Raises:
            RegionFailed: If orders failed or files arrived damaged. All other files are downloaded.
            SolaredError: If the server fails or files cannot be written.
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
                f"arrive. Run the same command again later. The first was {self._damaged[0]}."
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
                pass  # the files that are still missing are ordered again
        self._forget_order()

    def _bring(self, observable: str, slots: np.ndarray) -> None:
        """Order some frames and download them."""
        # JSOC may delete an export during its download. Then the rest is ordered once more.
        try:
            self._order(observable, slots)
        except Gone:
            self._forget_order()
            self._order(observable, self._without_file(observable, slots), again=True)
        self._forget_order()

    def _order(self, observable: str, slots: np.ndarray, again: bool = False) -> None:
        process = None if self._full_disk else cutout_process(self._plan.region.trajectory, slots)
        # A server rounds to whole pixels.
        largest = 1.1 * largest_side(process) if process else None
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
            alternative = "" if self._full_disk else ", or add --full-disk to download whole images"
            raise RegionFailed(
                f"{self._jsoc.address} could not export {slots.size:,} records of {SERIES[observable][0]}: {error}. "
                f"Run the same command again later{alternative}."
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
        """Wait for an export, download its frames of some slots, and return how many frames it has.

        A missing file raises `Gone`, unless the frames were ordered `again`: then JSOC does not have the file.
        """
        name = f"AR{self._number} {observable}"
        self._bar.set_description(f"{name}, JSOC prepares {request.id}")
        urls = self._jsoc.files(request)
        self._bar.set_description(name)
        queue = deque(slot for slot in slots.tolist() if slot in urls)
        delivered, damaged, in_a_row = len(queue), [], 0
        # After too many failures in a row, continue from the other end, so that one bad part does not stop the rest.
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
                trouble = f"{urls[slot]} was just exported but is missing. Run the same command again later."
            except Damaged as error:
                damaged.append(f"{urls[slot]}: {error}")
                trouble = (
                    f"{MOST_FAILED_IN_A_ROW} files in a row arrived damaged {self._jsoc.patience.attempts} times "
                    f"each, at both ends of an order, the last was {damaged[-1]}. Run the same command again later."
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
        """Return the order of an earlier run from the same server and of the same kind of images, or None."""
        try:
            order = json.loads((self._orders / ORDER_NAME).read_bytes())
            ours = order["server"] == self._jsoc.address and order["full_disk"] == self._full_disk
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return order if ours and order["request"] and order["observable"] in SERIES else None

    def _forget_order(self) -> None:
        """Delete the stored order with its partial files, which other orders cannot use."""
        with writing(self._orders):
            if self._orders.exists():
                shutil.rmtree(self._orders)
