// Looks at the page as it is drawn and lists what keeps people from using it (WCAG 2.2 AA, as far as a script can tell):
// controls without a name, text without contrast, overflow to the side, small targets, broken references, heading order.
(() => {
  const findings = []
  // A page half way between two looks is no finding: every transition and animation jumps to its end first.
  for (const animation of document.getAnimations()) if (animation.effect.getComputedTiming().endTime !== Infinity) animation.finish()
  const report = (what, element) => findings.push(`${what}: ${element.outerHTML.replace(/\s+/g, ' ').slice(0, 120)}`)
  const visible = element => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    !element.closest('.visually-hidden, .skip, .default-button, thead') && element.getClientRects().length > 0

  // Names.
  const nameOf = element => (element.getAttribute('aria-label') ??
    (element.getAttribute('aria-labelledby') ?? '').split(/\s+/).map(id => id && document.getElementById(id)?.textContent).join(' ').trim()) ||
    [...(element.labels ?? [])].map(label => label.textContent).join(' ').trim() || element.textContent.trim() || element.title
  for (const control of document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, meter, dialog[open], nav, table')) {
    const name = control.matches('table') ? control.caption?.textContent : nameOf(control)
    if (!name?.trim()) report('no name', control)
  }
  for (const input of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
    if (!input.labels?.length && !input.getAttribute('aria-label')) report('no label', input)
  }

  // References and identifiers.
  const ids = new Set()
  for (const element of document.querySelectorAll('[id]')) {
    if (ids.has(element.id)) report('id used twice', element)
    ids.add(element.id)
  }
  for (const attribute of ['for', 'aria-describedby', 'aria-labelledby', 'aria-controls']) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of element.getAttribute(attribute).split(/\s+/)) {
        if (id && !ids.has(id) && !(element.id === 'dialog')) report(`${attribute} names nothing`, element)
      }
    }
  }

  // Structure.
  if (document.querySelectorAll('h1').length !== 1) findings.push(`${document.querySelectorAll('h1').length} h1 headings`)
  let level = 0
  for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
    const next = Number(heading.tagName[1])
    if (next > level + 1) report('heading level skipped', heading)
    level = next
  }
  if (!document.documentElement.lang || !document.title) findings.push('no language or title')

  // Nothing leaves the page to the side.
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth > width) findings.push(`the page is ${document.documentElement.scrollWidth} wide in ${width}`)
  for (const element of document.querySelectorAll('main *')) {
    if (!visible(element) || element.closest('svg')) continue
    const box = element.getBoundingClientRect()
    if (box.right > width + 1) { report(`leaves the page to the right (${Math.round(box.right)} of ${width})`, element); break }
    if (element.scrollWidth > element.clientWidth + 1 && ['hidden', 'clip', ...(element.matches('.table-frame') ? ['auto'] : [])].includes(getComputedStyle(element).overflowX) && element.clientWidth > 0) report('text is cut', element)
  }

  // Targets (2.5.8): 24 by 24, except links inside text.
  for (const target of document.querySelectorAll('button, select, input:not([type=hidden]):not([type=checkbox]), .button, .chips a, .tabs a, .sidebar a, .flip, .pager-sizes a')) {
    if (!visible(target)) continue
    const box = target.getBoundingClientRect()
    if (box.width < 24 || box.height < 24) report(`target of ${Math.round(box.width)}x${Math.round(box.height)}`, target)
  }

  // Contrast (1.4.3, 1.4.11).
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = colour
    canvas.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, bottom) => top.slice(0, 3).map((c, i) => c * top[3] + bottom[i] * (1 - top[3])).concat(1)
  const backdrop = element => {
    const layers = []
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor))
    layers.push(rgba(getComputedStyle(document.documentElement).colorScheme.includes('dark') ? '#000' : '#fff'))
    return layers.reverse().reduce((bottom, top) => over(top, bottom))
  }
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05) }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  const seen = new Set()
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement
    if (!node.textContent.trim() || seen.has(element) || !visible(element) || element.closest('svg, option, :disabled')) continue
    seen.add(element)
    const style = getComputedStyle(element)
    const below = backdrop(element)
    const contrast = ratio(over(rgba(style.color), below), below)
    const size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)
    if (contrast < (large ? 3 : 4.5)) report(`contrast ${contrast.toFixed(2)} of "${node.textContent.trim().slice(0, 30)}"`, element)
  }
  for (const control of document.querySelectorAll('main input:not([type=hidden]):not([type=checkbox]), main select, main textarea')) {
    if (!visible(control) || control.disabled) continue
    const border = rgba(getComputedStyle(control).borderTopColor)
    const contrast = ratio(over(border, backdrop(control.parentElement)), backdrop(control.parentElement))
    if (contrast < 3) report(`border contrast ${contrast.toFixed(2)}`, control)
  }
  return findings
})()
