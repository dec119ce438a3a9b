// How many workers serve, asked every second.
const summary = document.getElementById("summary");

async function look() {
  try {
    const answer = await fetch("/status.json", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    summary.textContent = `${status.ready} of ${status.wanted} workers ready, generation ${status.generation}, ${status.state}`;
  } catch (error) {
    summary.textContent = `no answer: ${error.message}`;
  }
  setTimeout(look, 1000);
}

look();
