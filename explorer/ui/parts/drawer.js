/* How is the side drawer reached without a mouse? It gets a name and the focus when it opens, and gives the focus back.
 *
 * Streamlit draws the drawer's container; this names it. The close button listens to Esc by itself.
 */

export default function (component) {
  const drawer = component.parentElement.closest(".st-key-ix-drawer");
  if (!drawer) return undefined;
  const { name } = component.data;
  const opened = drawer.getAttribute("aria-label") !== name;
  drawer.setAttribute("role", "dialog");
  drawer.setAttribute("aria-label", name);
  drawer.tabIndex = -1;
  if (opened) {
    if (!drawer.returnFocusTo) drawer.returnFocusTo = document.activeElement;
    drawer.focus({ preventScroll: true });
    drawer.scrollTop = 0;
  }
  return () => {
    const back = drawer.returnFocusTo;
    const inside = !document.activeElement || document.activeElement === document.body || drawer.contains(document.activeElement);
    if (inside && back?.isConnected) back.focus({ preventScroll: true });
  };
}
