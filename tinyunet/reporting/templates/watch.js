// Renews the page: fetches it again every few seconds and replaces the parts that have changed.

const PERIOD = 2500; // ms
const seen = document.getElementById("seen");
const introduction = seen.textContent;
let last = new Date();

const ids = (page) => [...page.querySelectorAll("main [id]")].map((part) => part.id).join();

// Waits for the pictures of a part, so that none is blank for a moment.
const loaded = (part) =>
  Promise.all(
    [...part.querySelectorAll("img")].map((image) => {
      const early = new Image();
      early.src = image.getAttribute("src");
      return early.decode().catch(() => {});
    }),
  );

async function replace(old, fresh) {
  if (old.outerHTML === fresh.outerHTML) return;
  await loaded(fresh);
  old.replaceWith(document.adoptNode(fresh));
}

async function renew() {
  const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(60000) });
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.title = page.title;
  await replace(document.querySelector("h1"), page.querySelector("h1"));
  if (ids(page) !== ids(document)) {
    await replace(document.querySelector("main"), page.querySelector("main"));
  } else {
    for (const part of page.querySelectorAll("main [id]")) {
      await replace(document.getElementById(part.id), part);
    }
  }
}

async function keepRenewing() {
  if (!document.hidden) {
    try {
      await renew();
      last = new Date();
      seen.textContent = introduction;
    } catch {
      seen.textContent = `No answer since ${last.toLocaleTimeString()}: is tinyunet.watch still running?`;
    }
    seen.classList.toggle("lost", seen.textContent !== introduction);
  }
  setTimeout(keepRenewing, PERIOD);
}

setTimeout(keepRenewing, PERIOD);
