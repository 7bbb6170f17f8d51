/* Did Python hear of the pick?
 *
 * A pick made while the server is down is lost, and Streamlit then asks the restarted server for a fragment that it
 * does not have: the page would stay deaf until it is reloaded. So a while after a pick the address must name it; if
 * not, and the server no longer knows this session, the page is opened again on what was picked. A slow server knows
 * its sessions and is left alone.
 */

const HEARD_MS = 4000;

class Heard {
  expect(data, id, target) {
    this.cancel();
    if (id === undefined) return;
    this.waiting = setTimeout(() => this.check(data, id, target), HEARD_MS);
  }

  async check(data, id, target) {
    const link = new URL(window.location.href);
    if (link.searchParams.get("query") === id) return;
    let answer = null;
    try {
      answer = await fetch(`${data.base || ""}/api/session?token=${encodeURIComponent(data.token)}`);
    } catch {
      this.expect(data, id, target); // still down: look again
      return;
    }
    if (answer.status !== 403) return;
    for (const [name, value] of Object.entries({ run: data.run, query: id, target })) link.searchParams.set(name, value);
    window.location.assign(link);
  }

  cancel() {
    clearTimeout(this.waiting);
  }
}
