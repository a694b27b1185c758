"""Chromium without a window and without a network, for the pages that run scripts."""

import importlib.util
import os
import shutil
from contextlib import contextmanager

import pytest

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # no network
]  # fmt: skip


def chromium():
    """The paths of Chromium and its driver; skips the test where one is missing."""
    if importlib.util.find_spec("selenium") is None:
        pytest.skip("needs selenium, of tests/requirements.txt")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    return browser, driver


@contextmanager
def opened(profile, *, width=1400, height=1000, timeout=120):
    """A window of Chromium, driven by Selenium, whose profile is an empty folder."""
    browser, driver_path = chromium()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in [*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver_path, env={**os.environ, "no_proxy": "*"})
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(timeout)
    try:
        yield driver
    finally:
        driver.quit()


def set_width(driver, width, height=1000):
    """Give the page the width of a screen, narrower than a window of Chromium can be."""
    sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)


def whole_page(driver, path):
    """Store a picture of the whole page, to look at."""
    import base64

    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(taken["data"]))
