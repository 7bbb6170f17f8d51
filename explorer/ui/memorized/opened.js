/* Does the one who clicked a tile far below see what it opened? The card comes into view when another example is opened.
 *
 * Streamlit draws the container; this scrolls to it, and only where its head is not on the screen.
 */

const HEADER = 60;
const LEAST_SEEN = 160;

export default function (component) {
  const box = component.parentElement.closest(".st-key-ix-opened");
  const { name } = component.data;
  if (!box || box.dataset.shown === name) return;
  box.dataset.shown = name;
  const { top } = box.getBoundingClientRect();
  if (top < HEADER || top > window.innerHeight - LEAST_SEEN) box.scrollIntoView({ block: "start" });
}
