// A tree of alternatives: it forks where the model hesitated.
{
  /**
   * @typedef {{probability: number, text: string, tokens: {text: string, entropy_nats: number}[],
   *   hesitation_nats: number | null, finish_reason: string | null, children: Branch[]}} Branch
   * @typedef {{path: number[], probability: number}} End
   */

  const MOST_OF_PROMPT = 300; // characters
  const MOST_OPEN = 40; // ends of a tree that is open at first; a larger one is open at its first forks
  const INDENTED = 12; // levels, behind which no more space is left of them

  views["tree"] = (entry, place) => {
    const { tree, prompt, ends } = /** @type {{tree: Branch, prompt: string, ends: End[]}} */ (entry.data);
    const root = element("ul", "tree");
    root.setAttribute("role", "tree");
    root.setAttribute("aria-label", "Branches");
    const asked = prompt.length > MOST_OF_PROMPT ? `…${prompt.slice(-MOST_OF_PROMPT)}` : prompt;
    root.append(branchItem(tree, asked, new Map(ends.map(({ path }, at) => [path.join(), at]))));
    /** @type {HTMLElement} */ (root.firstElementChild).tabIndex = 0;
    walkTree(root);
    const total = ends.reduce((sum, { probability }) => sum + probability, 0);
    place.append(
      element("h2", "", "The tree"),
      element("p", "", "Each line is a branch, behind the probability that its first token has at the fork. Arrow keys walk, open and close; Enter on an end shows its text and tokens below."),
      entropyScale(), root,
      element("h2", "", `The ${ends.length} ends, the most probable first`),
      element("p", "", `Together ${percent(total)} of the probability at the forks${total < 0.9995 ? "; the rest belongs to tokens that no branch begins with" : ""}.`),
      element("ol", "clusters", ...ends.map((end, at) => endItem(end, at, branchTexts(tree, end.path).join("")))),
    );
  };

  /** A branch and those behind it. @param {Branch} branch @param {string} before a text before its own @param {Map<string, number>} ends by path @param {number[]} path */
  function branchItem(branch, before, ends, path = []) {
    const item = element("li", path.length >= INDENTED ? "deep" : "");
    item.setAttribute("role", "treeitem");
    item.setAttribute("aria-level", String(path.length + 1));
    item.tabIndex = -1;
    const end = ends.get(path.join());
    const behind = branch.children.length
      ? element("span", "fork", ` ⟨H(p) ${shown(branch.hesitation_nats ?? NaN, 2)} nats: ${branch.children.length} branches⟩`)
      : element("span", "end", branch.finish_reason === "length" ? " …" : ` (${branch.finish_reason})`);
    const label = element("div", "branch", element("span", path.length ? "share" : "sign", path.length ? percent(branch.probability) : ""), before,
      ...branch.tokens.map(({ text, entropy_nats: nats }) => element("span", `t ${entropyShade(nats)}`, text)), behind);
    label.id = `branch-${path.join("-")}`;
    item.setAttribute("aria-labelledby", label.id);
    item.append(label);
    if (end !== undefined) item.dataset.end = String(end);
    if (!branch.children.length) return item;
    item.setAttribute("aria-expanded", String(ends.size <= MOST_OPEN || path.length < 2));
    const group = element("ul", "", ...branch.children.map((child, at) => branchItem(child, "", ends, [...path, at])));
    group.setAttribute("role", "group");
    item.append(group);
    return item;
  }

  /** The class of a token's shade. @param {number} nats its entropy */
  function entropyShade(nats) {
    const { from, shades } = SHADES.entropy;
    return shades[lastAtMost(from, nats, 0, from.length - 1)];
  }

  /** What the shades of entropy mean. */
  function entropyScale() {
    const { from, shades } = SHADES.entropy;
    return element("div", "scale", "Entropy of q before a token, nats: ",
      ...from.map((start, i) => element("span", shades[i], i ? `from ${start}` : `below ${from[1]}`)));
  }

  /** The texts of the branches along a path. @param {Branch} branch @param {number[]} path */
  function branchTexts(branch, path) {
    const texts = [branch.text];
    for (const at of path) {
      branch = branch.children[at];
      texts.push(branch.text);
    }
    return texts;
  }

  /** An end, with its share. @param {End} end @param {number} at its place among the texts @param {string} said */
  function endItem({ probability }, at, said) {
    const bar = element("i");
    bar.style.width = `${100 * probability}%`;
    return element("li", "", element("div", "bar q", element("span"), element("span", "", bar), element("b", "", percent(probability))),
      element("div", "", textButton(at, element("bdi", "", said || "(empty)"))));
  }

  /** Let keys and pointer walk a tree. @param {HTMLElement} root */
  function walkTree(root) {
    /** @param {Event} event */
    const itemOf = (event) => event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[role=treeitem]")) : null;
    /** @param {Element | null | undefined} item */
    const walkTo = (item) => {
      if (!(item instanceof HTMLElement)) return;
      for (const one of root.querySelectorAll("[tabindex='0']")) /** @type {HTMLElement} */ (one).tabIndex = -1;
      item.tabIndex = 0;
      item.focus();
    };
    /** Open or close, or show an end. @param {HTMLElement} item */
    const act = (item) => {
      if (item.dataset.end !== undefined) chooseText(Number(item.dataset.end));
      else item.setAttribute("aria-expanded", String(item.getAttribute("aria-expanded") === "false"));
    };
    root.addEventListener("click", (event) => {
      const item = itemOf(event);
      if (!item) return;
      walkTo(item);
      act(item);
    });
    root.addEventListener("keydown", (event) => {
      const item = itemOf(event);
      if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
      const visible = [...root.querySelectorAll("[role=treeitem]")].filter((one) => !one.parentElement?.closest("[aria-expanded=false]"));
      const at = visible.indexOf(item);
      const expanded = item.getAttribute("aria-expanded");
      /** @type {Record<string, () => void>} */
      const keys = {
        ArrowDown: () => walkTo(visible[at + 1]),
        ArrowUp: () => walkTo(visible[at - 1]),
        Home: () => walkTo(visible[0]),
        End: () => walkTo(visible.at(-1)),
        ArrowRight: () => expanded === "false" ? act(item) : expanded && walkTo(item.querySelector("[role=treeitem]")),
        ArrowLeft: () => expanded === "true" ? act(item) : walkTo(item.parentElement?.closest("[role=treeitem]")),
        Enter: () => act(item),
        " ": () => act(item),
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
}
