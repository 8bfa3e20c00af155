"""The holes of what is stored, filled from OKX's REST and its bulk files, and the bars mended that lacked them."""

from okxcli.backfill.files import BulkFiles
from okxcli.backfill.plan import Plan, pages
from okxcli.backfill.run import Backfill
from okxcli.backfill.tools import Tools

__all__ = ["Backfill", "BulkFiles", "Plan", "Tools", "pages"]
