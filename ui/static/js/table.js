// Tables with check boxes and pickers with a search.

/** Enables an action only while every chosen row allows it. */
export function selections (root) {
  for (const form of all(root, 'form[data-selection]')) {
    const actions = [...form.querySelectorAll('button[data-action]')]
    if (actions.length === 0) continue
    const counter = form.querySelector('[data-selection-count]')
    const idle = counter.textContent
    const update = () => {
      const chosen = [...form.querySelectorAll('input[name=id]:checked')]
      counter.textContent = chosen.length === 0 ? idle : `${chosen.length} chosen`
      for (const button of actions) {
        const allowed = chosen.length > 0 && chosen.every(box => box.dataset.allows.split(' ').includes(button.dataset.action))
        button.disabled = !allowed
        button.title = allowed || chosen.length === 0 ? '' : 'Not possible for every chosen row'
      }
    }
    form.addEventListener('change', update)
    update()
  }
}

/** Filters a picker's rows while typing. */
export function pickers (root) {
  for (const picker of all(root, '[data-picker]')) {
    const field = picker.querySelector('[data-filter]')
    if (!field) continue
    field.closest('[hidden]')?.removeAttribute('hidden')
    const rows = [...picker.querySelectorAll('[data-row]')]
    const none = picker.querySelector('.picker-none')
    field.addEventListener('input', () => {
      const wanted = field.value.trim().toLocaleLowerCase()
      for (const row of rows) row.hidden = !row.textContent.toLocaleLowerCase().includes(wanted)
      none.hidden = rows.some(row => !row.hidden)
    })
    // Enter in the search must not save the form around it.
    field.addEventListener('keydown', event => { if (event.key === 'Enter') event.preventDefault() })
  }
}

function all (root, selector) {
  const inside = [...root.querySelectorAll(selector)]
  return root.matches?.(selector) ? [root, ...inside] : inside
}
